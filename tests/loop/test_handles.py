"""Handles are like asyncio's: type, repr, weak references, comparison, private attributes."""

import asyncio
import contextvars
import copy
import gc
import sys
import weakref

import pytest

needs_get_context = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="Handle.get_context is new in Python 3.12"
)

SCHEDULE = {
    "call_soon": lambda loop, *args: loop.call_soon(*args),
    "call_soon_threadsafe": lambda loop, *args: loop.call_soon_threadsafe(*args),
    "call_later": lambda loop, *args: loop.call_later(3600, *args),
    "call_at": lambda loop, *args: loop.call_at(loop.time() + 3600, *args),
}
TIMED = ("call_later", "call_at")


@pytest.fixture(params=SCHEDULE)
def how(request):
    return request.param


@pytest.fixture
def schedule(loop, how):
    return lambda *args: SCHEDULE[how](loop, *args)


# Python 3.14 has a class for these.
ThreadSafeHandle = getattr(asyncio.events, "_ThreadSafeHandle", asyncio.Handle)


def stock_handle(loop, how, handle, callback, *args):
    """The handle that asyncio itself would have made."""
    if how in TIMED:
        return asyncio.TimerHandle(handle.when(), callback, args, loop)
    if how == "call_soon_threadsafe":
        return ThreadSafeHandle(callback, args, loop)
    return asyncio.Handle(callback, args, loop)


def do_nothing(*args):
    pass


def test_type(schedule, how):
    handle = schedule(do_nothing)
    assert isinstance(handle, asyncio.Handle)
    assert isinstance(handle, asyncio.TimerHandle) == (how in TIMED)
    handle.cancel()


def test_repr_says_what_asyncio_says(loop, schedule, how):
    loop.set_debug(False)
    for arguments in [(), (1,), (1, "two", [3], {4: 4})]:
        handle = schedule(do_nothing, *arguments)
        assert repr(handle) == repr(stock_handle(loop, how, handle, do_nothing, *arguments))
        handle.cancel()


def test_repr_when_cancelled(loop, schedule, how):
    loop.set_debug(False)
    handle = schedule(do_nothing, 1)
    stock = stock_handle(loop, how, handle, do_nothing, 1)
    handle.cancel()
    stock.cancel()
    assert repr(handle) == repr(stock)
    assert "cancelled" in repr(handle)


def test_repr_in_debug_mode_tells_the_place_of_creation(loop, schedule):
    loop.set_debug(True)
    handle = schedule(do_nothing)
    assert "created at" in repr(handle)
    assert __file__ in repr(handle)
    handle.cancel()
    assert "do_nothing" in repr(handle), "a cancelled handle keeps its text in debug mode"
    assert " cancelled " in repr(handle)


def test_source_traceback_ends_at_the_caller(loop):
    loop.set_debug(True)
    handles = [
        loop.call_soon(do_nothing),
        loop.call_soon_threadsafe(do_nothing),
        loop.call_later(3600, do_nothing),
        loop.call_at(loop.time() + 3600, do_nothing),
    ]
    for handle in handles:
        last = handle._source_traceback[-1]
        assert last.filename == __file__
        assert last.name == "test_source_traceback_ends_at_the_caller"
        handle.cancel()


def test_no_source_traceback_outside_debug_mode(schedule, loop):
    loop.set_debug(False)
    handle = schedule(do_nothing)
    assert handle._source_traceback is None
    handle.cancel()


def test_cancelled(schedule):
    handle = schedule(do_nothing)
    assert handle.cancelled() is False
    assert handle.cancel() is None
    assert handle.cancelled() is True


@needs_get_context
def test_get_context(loop, how):
    context = contextvars.copy_context()
    make = {
        "call_soon": lambda: loop.call_soon(do_nothing, context=context),
        "call_soon_threadsafe": lambda: loop.call_soon_threadsafe(do_nothing, context=context),
        "call_later": lambda: loop.call_later(3600, do_nothing, context=context),
        "call_at": lambda: loop.call_at(loop.time() + 3600, do_nothing, context=context),
    }[how]
    handle = make()
    assert handle.get_context() is context
    handle.cancel()


@needs_get_context
def test_get_context_without_an_explicit_one(schedule):
    var = contextvars.ContextVar("var")
    var.set("here")
    handle = schedule(do_nothing)
    assert handle.get_context()[var] == "here"
    handle.cancel()


def test_attributes_that_debuggers_read(schedule, how):
    handle = schedule(do_nothing, 1, 2)
    assert handle._callback is do_nothing
    assert tuple(handle._args) == (1, 2)
    assert handle._cancelled is False
    if how in TIMED:
        assert handle._when == handle.when()
        assert handle._scheduled
    handle.cancel()
    assert handle._callback is None
    assert handle._args is None
    assert handle._cancelled is True


def test_weak_reference(schedule):
    handle = schedule(do_nothing)
    reference = weakref.ref(handle)
    assert reference() is handle
    handle.cancel()


def test_cancel_drops_callback_and_arguments_at_once(schedule):
    class Payload:
        def method(self):
            pass

    bound, argument = Payload(), Payload()
    references = [weakref.ref(bound), weakref.ref(argument)]
    handle = schedule(bound.method, argument)
    handle.cancel()
    del bound, argument
    assert [reference() for reference in references] == [None, None]


def test_argument_lives_until_the_callback_ran(loop, iterate):
    class Payload:
        pass

    payload = Payload()
    reference = weakref.ref(payload)
    loop.call_soon(do_nothing, payload)
    del payload
    assert reference() is not None
    iterate()
    assert reference() is None


def test_handles_are_distinct_objects(loop, iterate):
    """A recycled handle must never be one that someone still holds."""
    kept = []
    for _ in range(50):
        kept.extend(loop.call_soon(do_nothing) for _ in range(20))
        iterate()
    assert len({id(handle) for handle in kept}) == len(kept)
    fresh = loop.call_soon(do_nothing)
    for handle in kept:
        handle.cancel()
    assert not fresh.cancelled()


def test_weakly_held_handles_go_away_after_the_run(loop, iterate):
    references = [weakref.ref(loop.call_soon(do_nothing)) for _ in range(10)]
    iterate()
    gc.collect()
    assert [reference() for reference in references] == [None] * 10


def test_timer_handles_compare_by_time(loop):
    early = loop.call_at(loop.time() + 100, do_nothing)
    late = loop.call_at(loop.time() + 200, do_nothing)
    assert early < late
    assert early <= late
    assert late > early
    assert late >= early
    assert early != late
    assert early == early
    assert hash(early) == hash(early.when())
    with pytest.raises(TypeError):
        early < 5  # noqa: B015
    for handle in (early, late):
        handle.cancel()


def test_equal_timer_handles(loop):
    when = loop.time() + 100
    one, same = loop.call_at(when, do_nothing, 1), loop.call_at(when, do_nothing, 1)
    other = loop.call_at(when, do_nothing, 2)
    assert one == same
    assert one != other
    assert one <= same
    assert one >= same
    for handle in (one, same, other):
        handle.cancel()


def test_plain_handles_hash_by_identity(loop):
    one, two = loop.call_soon(do_nothing), loop.call_soon(do_nothing)
    assert one != two
    assert len({one, two}) == 2


def test_handles_of_the_loop_sort_with_stock_handles(loop):
    ours = loop.call_at(loop.time() + 100, do_nothing)
    stock = asyncio.TimerHandle(loop.time() + 200, do_nothing, (), loop)
    assert ours < stock
    assert stock > ours
    assert sorted([stock, ours]) == [ours, stock]
    ours.cancel()


def test_stock_handles_can_be_run_by_hand(loop):
    """Libraries call Handle._run on handles they keep themselves."""
    seen = []
    loop.call_soon(seen.append, 1)._run()
    assert seen == [1]


def test_copying_does_not_crash(schedule):
    """asyncio's handles hold a Context, which cannot be pickled: ours may refuse or copy."""
    handle = schedule(do_nothing)
    try:
        duplicate = copy.copy(handle)
    except TypeError:
        pass
    else:
        assert isinstance(duplicate, asyncio.Handle)
    handle.cancel()
