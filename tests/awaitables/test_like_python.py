"""Coroutines of callbacks and of steps beside their twin of Python, driven in every order."""

import asyncio
import concurrent.futures
import inspect
import itertools
import sys
import threading
import types
import warnings

import pytest

pytestmark = pytest.mark.improves_on_asyncio


class Inner:
    """An awaitable that yields, and notes what it is sent; it may go on after an exception."""

    def __init__(self, log, ends=True, stubborn=False):
        self.log, self.ends, self.stubborn = log, ends, stubborn

    def __await__(self):
        for i in range(2):
            try:
                self.log.append((yield i))
            except LookupError as error:
                self.log.append(repr(error))
                if not self.stubborn:
                    raise
            except GeneratorExit:
                self.log.append("exit")
                raise
        if not self.ends:
            raise KeyError("inner")
        return "result"


class Plain:
    """An iterator without `send`, `throw` and `close`."""

    def __init__(self, log, ends=True, stubborn=False):
        self.left = 2

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.left == 0:
            raise StopIteration("plain")
        self.left -= 1
        return self.left


class Coroutine:
    def __init__(self, *args, **kwargs):
        self.inner = Inner(*args, **kwargs)

    def __await__(self):
        async def body():
            return await self.inner

        return body().__await__()


async def awaits(inner):
    return await inner


def python(make):
    async def coroutine():
        first = await make()
        return first, await make()

    return coroutine()


@pytest.fixture(params=["callbacks", "steps"])
def native(request, extension):
    if request.param == "steps":
        steps = extension("steps")
        return lambda make: steps.new("twice", make)
    callbacks = extension("callbacks")

    def native(make):
        results = []
        aw = callbacks.new()
        callbacks.add_defer(aw, lambda aw: callbacks.add_await(aw, make(), first))

        def first(aw, value):
            results.append(value)
            callbacks.add_await(aw, make(), second)

        def second(aw, value):
            callbacks.set_result(aw, (*results, value))

        return aw

    return native


def wrap(coroutine):
    return coroutine.__await__()


@types.coroutine
def from_iterator(coroutine):
    return (yield from coroutine.__await__())


@types.coroutine
def from_coroutine(coroutine):
    return (yield from coroutine)


async def awaited(coroutine):
    return await coroutine


DRIVERS = {
    "itself": lambda coroutine: coroutine,
    "iterator": wrap,
    "await": awaited,
    "yield from": from_iterator,
    "types.coroutine": from_coroutine,
}

OPERATIONS = {
    "next": lambda it: it.__next__() if hasattr(it, "__next__") else it.send(None),
    "send": lambda it: it.send(None),
    "value": lambda it: it.send(1),
    "throw": lambda it: it.throw(LookupError("thrown")),
    "throw class": lambda it: it.throw(LookupError),
    "throw three": lambda it: it.throw(LookupError, "thrown", None),
    "exit": lambda it: it.throw(GeneratorExit),
    "bad": lambda it: it.throw(1),
    "close": lambda it: it.close(),
}


def do(operation, iterator, coroutine):
    """Do one thing, and tell what an observer sees of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = "value", OPERATIONS[operation](iterator)
        except BaseException as error:
            context = error.__context__
            value = getattr(error, "value", None)
            result = type(error), str(error), value, repr(context)
    state = inspect.getcoroutinestate(coroutine), coroutine.cr_await is None, coroutine.cr_running
    # CPython does not warn a second time of what a coroutine passes on to another one of Python.
    return result, state, bool(caught)


INNERS = {
    "generator": lambda log: Inner(log),
    "fails": lambda log: Inner(log, ends=False),
    "stubborn": lambda log: Inner(log, stubborn=True),
    "plain": lambda log: Plain(log),
    "coroutine": lambda log: Coroutine(log),
    "python": lambda log: awaits(Inner(log)),
}


def compare(native, driver, inner, order):
    seen = []
    for make in (native, python):
        log = []
        coroutine = make(lambda: INNERS[inner](log))  # noqa: B023
        iterator = DRIVERS[driver](coroutine)
        events = [do(operation, iterator, coroutine) for operation in order]
        iterator.close()
        coroutine.close()
        seen.append((events, log))
    assert seen[0] == seen[1], (driver, inner, order)


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_all_orders_of_three_operations(native, driver, inner):
    """(T2.7)"""
    if driver in ("iterator", "yield from") and sys.version_info < (3, 12):
        # CPython 3.11 crashes in `throw()` of the iterator of a coroutine in some of these orders.
        operations = [name for name in OPERATIONS if not name.startswith(("throw three", "bad"))]
    else:
        operations = list(OPERATIONS)
    for order in itertools.product(operations, repeat=3):
        compare(native, driver, inner, order)


@pytest.mark.parametrize("inner", INNERS)
def test_all_orders_of_five_operations(native, inner):
    """(T2.7)"""
    operations = ["send", "value", "throw", "exit", "close"]
    for order in itertools.product(operations, repeat=5):
        compare(native, "itself", inner, order)


def test_iterating(native):
    """`for` refuses it, as a coroutine (T2.7)."""
    for make in (native, python):
        coroutine = make(lambda: Inner([]))
        with pytest.raises(TypeError, match="object is not iterable"):
            iter(coroutine)
        assert list(coroutine.__await__()) == [0, 1, 0, 1]


def test_while_it_runs(callbacks):
    seen = []

    def use(aw, value):
        assert aw.cr_running
        assert aw.cr_await is None
        for use in (lambda: aw.send(None), lambda: aw.throw(LookupError), aw.close):
            with pytest.raises(ValueError, match="coroutine already executing"):
                use()
        seen.append(value)

    async def inner():
        use(aw, "inner")

    aw = callbacks.new()
    callbacks.add_await(aw, inner(), use)
    with pytest.raises(StopIteration):
        aw.send(None)
    assert seen == ["inner", None]


@pytest.mark.parametrize("use", ["send", "throw", "close"])
def test_driven_by_two_threads(native, use):
    """One drives it, the other is refused; no more happens (T2.21)."""
    entered, refused = threading.Event(), threading.Event()

    class Blocking:
        def __await__(self):
            entered.set()
            assert refused.wait(60)
            yield "blocked"
            return "result"

    coroutine = native(Blocking)

    def drive():
        assert entered.wait(60)
        try:
            with pytest.raises(ValueError, match="coroutine already executing"):
                getattr(coroutine, use)(*{"send": (None,), "throw": (LookupError,)}.get(use, ()))
        finally:
            refused.set()

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        other = threads.submit(drive)
        assert coroutine.send(None) == "blocked"
        other.result(60)
    assert coroutine.send(None) == "blocked"
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    assert end.value.value == ("result", "result")


async def test_awaited_by_two_tasks(loop, callbacks):
    aw = callbacks.new()
    callbacks.add_await(aw, asyncio.sleep(0.01, "slept"), lambda aw, v: callbacks.set_result(aw, v))
    first = asyncio.create_task(awaited(aw))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
        await aw
    assert await first == "slept"
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await aw


def test_a_stop_iteration_of_a_callback_is_no_result(callbacks):
    aw = callbacks.new()
    callbacks.add_defer(aw, lambda aw: (-1, StopIteration(3)))
    with pytest.raises(RuntimeError, match="coroutine raised StopIteration") as caught:
        aw.send(None)
    assert caught.value.__cause__.value == 3
