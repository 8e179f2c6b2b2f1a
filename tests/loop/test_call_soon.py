"""call_soon: order, arguments, contexts, what it refuses."""

import asyncio
import contextvars
import functools

import pytest


def test_callbacks_run_in_the_order_they_were_scheduled(loop, iterate):
    seen = []
    for number in range(1000):
        loop.call_soon(seen.append, number)
    assert seen == []
    iterate()
    assert seen == list(range(1000))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 17, 300])
def test_any_number_of_arguments_arrives(loop, iterate, count):
    seen = []
    arguments = tuple(object() for _ in range(count))
    loop.call_soon(lambda *args: seen.append(args), *arguments)
    iterate()
    assert seen == [arguments]


def test_callbacks_scheduled_by_a_callback_run_in_the_next_iteration(loop):
    seen = []

    def first():
        seen.append("first")
        loop.call_soon(nested)

    def nested():
        seen.append("nested")
        loop.stop()

    loop.call_soon(first)
    loop.call_soon(seen.append, "second")
    loop.run_forever()
    assert seen == ["first", "second", "nested"]


def test_each_callback_runs_once(loop, iterate):
    seen = []
    loop.call_soon(seen.append, 1)
    iterate(5)
    assert seen == [1]


@pytest.mark.parametrize("make", ["method", "partial", "builtin", "class", "callable object"])
def test_kinds_of_callables(loop, iterate, make):
    seen = []

    class Callable:
        def __call__(self, *args):
            seen.append(args)

        def method(self, *args):
            seen.append(args)

    class OnInit:
        def __init__(self, *args):
            seen.append(args)

    callback = {
        "method": Callable().method,
        "partial": functools.partial(Callable().method, 1),
        "builtin": seen.append,
        "class": OnInit,
        "callable object": Callable(),
    }[make]
    loop.call_soon(callback, 2)
    iterate()
    assert seen == [{"partial": (1, 2), "builtin": 2}.get(make, (2,))]


def test_cancelled_callback_does_not_run(loop, iterate):
    seen = []
    handles = [loop.call_soon(seen.append, number) for number in range(10)]
    for handle in handles[::2]:
        handle.cancel()
    iterate()
    assert seen == [1, 3, 5, 7, 9]


def test_cancelling_from_a_callback_of_the_same_batch(loop, iterate):
    seen = []
    loop.call_soon(lambda: later.cancel())
    later = loop.call_soon(seen.append, "cancelled")
    loop.call_soon(seen.append, "kept")
    iterate()
    assert seen == ["kept"]


def test_cancelling_itself_while_running(loop, iterate):
    seen = []

    def callback(payload):
        handle.cancel()
        seen.append(payload)

    handle = loop.call_soon(callback, object())
    iterate()
    assert len(seen) == 1
    assert handle.cancelled()


def test_cancelling_after_the_run_and_twice_is_harmless(loop, iterate):
    handle = loop.call_soon(lambda: None)
    iterate()
    handle.cancel()
    handle.cancel()
    assert handle.cancelled()


def test_callback_runs_in_a_copy_of_the_current_context(loop, iterate):
    var = contextvars.ContextVar("var", default="unset")
    seen = []
    var.set("at call_soon")
    loop.call_soon(lambda: (seen.append(var.get()), var.set("inside")))
    var.set("after call_soon")
    iterate()
    assert seen == ["at call_soon"]
    assert var.get() == "after call_soon"


def test_explicit_context(loop, iterate):
    var = contextvars.ContextVar("var", default="unset")
    context = contextvars.copy_context()
    context.run(var.set, "mine")
    seen = []
    loop.call_soon(lambda: (seen.append(var.get()), var.set("changed")), context=context)
    iterate()
    assert seen == ["mine"]
    assert context[var] == "changed"
    assert var.get() == "unset"


def test_callback_arguments_together_with_a_context(loop, iterate):
    context = contextvars.copy_context()
    seen = []
    for count in range(6):
        loop.call_soon(lambda *args: seen.append(args), *range(count), context=context)
    iterate()
    assert seen == [tuple(range(count)) for count in range(6)]


def test_context_none_means_the_current_context(loop, iterate):
    var = contextvars.ContextVar("var")
    var.set("current")
    seen = []
    loop.call_soon(lambda: seen.append(var.get()), context=None)
    iterate()
    assert seen == ["current"]


def test_context_that_is_already_entered_is_reported(loop, asyncio_log):
    context = contextvars.copy_context()
    seen = []
    loop.call_soon(seen.append, 1, context=context)
    loop.call_soon(loop.stop)
    context.run(loop.run_forever)
    assert seen == []
    (record,) = asyncio_log.records
    assert isinstance(record.exc_info[1], RuntimeError)
    assert "cannot enter context" in str(record.exc_info[1])


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_unknown_keyword_is_a_type_error(loop, method):
    with pytest.raises(TypeError):
        getattr(loop, method)(print, 1, sep="")


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_missing_callback_is_a_type_error(loop, method):
    with pytest.raises(TypeError):
        getattr(loop, method)()


def test_callback_by_keyword(loop, iterate):
    seen = []
    loop.call_soon(callback=lambda: seen.append(1))
    loop.call_soon_threadsafe(callback=lambda: seen.append(2))
    iterate()
    assert seen == [1, 2]


@pytest.mark.parametrize(
    "schedule",
    [
        lambda loop: loop.call_soon(print),
        lambda loop: loop.call_soon_threadsafe(print),
        lambda loop: loop.call_later(1, print),
        lambda loop: loop.call_at(1, print),
    ],
    ids=["call_soon", "call_soon_threadsafe", "call_later", "call_at"],
)
def test_scheduling_on_a_closed_loop(loop, schedule):
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        schedule(loop)


def test_uncallable_callback_reaches_the_exception_handler(loop, iterate, unhandled):
    loop.set_debug(False)
    handle = loop.call_soon(42)
    iterate()
    (context,) = unhandled
    assert isinstance(context["exception"], TypeError)
    assert context["handle"] is handle


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_debug_mode_refuses_coroutines_and_uncallables(loop, method):
    async def coroutine_function():
        """Never run."""

    loop.set_debug(True)
    when = (0,) if method in ("call_later", "call_at") else ()
    named = "call_(at|later)" if method == "call_later" else method
    with pytest.raises(TypeError, match=rf"^coroutines cannot be used with {named}\(\)$"):
        getattr(loop, method)(*when, coroutine_function)
    coroutine = coroutine_function()
    with pytest.raises(TypeError, match=rf"^coroutines cannot be used with {named}\(\)$"):
        getattr(loop, method)(*when, coroutine)
    coroutine.close()
    with pytest.raises(
        TypeError, match=rf"^a callable object was expected by {named}\(\), got 42$"
    ):
        getattr(loop, method)(*when, 42)


def test_one_batch_is_what_was_ready_at_its_start(loop):
    """A callback that reschedules itself does not keep others or the poll from running."""
    times = []

    def again():
        times.append(loop.time())
        if len(times) < 5:
            loop.call_soon(again)

    seen_at = []
    loop.call_soon(again)
    loop.call_soon(lambda: seen_at.append(len(times)))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert len(times) == 1
    assert seen_at == [1]


def test_deep_recursion_in_a_callback_does_not_break_the_loop(loop, iterate, unhandled):
    def recurse():
        recurse()

    seen = []
    loop.call_soon(recurse)
    loop.call_soon(seen.append, 1)
    iterate()
    assert seen == [1]
    (context,) = unhandled
    assert isinstance(context["exception"], RecursionError)


def test_many_callbacks_in_one_iteration(loop, iterate):
    count = 0

    def bump():
        nonlocal count
        count += 1

    for _ in range(100_000):
        loop.call_soon(bump)
    iterate()
    assert count == 100_000


def test_sleep_zero_runs_other_tasks(loop):
    seen = []

    async def worker(name):
        for step in range(3):
            seen.append((name, step))
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(worker("a"), worker("b"))

    loop.run_until_complete(main())
    assert seen == [(name, step) for step in range(3) for name in "ab"]
