"""Async generators of steps, beside one of Python."""

import asyncio
import collections.abc
import contextlib
import gc
import inspect
import itertools
import sys
import warnings
import weakref

import pytest

pytestmark = pytest.mark.improves_on_asyncio


@pytest.fixture(scope="module")
def functions(extension):
    return extension("functions")


@pytest.fixture(autouse=True)
def nothing_stays(functions):
    yield
    gc.collect()
    assert functions.live() == 0


async def python(a, b=None):
    for i in range(3):
        await a()
        try:
            b = yield i, b
        except LookupError as error:
            b = error
        except BaseException:
            await a()
            raise


def sleeps():
    return asyncio.sleep(0)


async def at_once():
    pass


async def test_async_for(loop, functions):
    """(T2.14)"""
    assert [item async for item in functions.numbers(3)] == [0, 1, 2]
    assert [item async for item in functions.echo(sleeps)] == [(0, None), (1, None), (2, None)]
    assert [item async for item in functions.Thing().items(2)] == [0, 1]


def test_classes(functions):
    generator = functions.echo(sleeps)
    assert isinstance(generator, collections.abc.AsyncGenerator)
    assert not isinstance(generator, collections.abc.Awaitable)
    assert aiter(generator) is generator
    assert generator.__name__ == generator.__qualname__ == "echo"
    assert generator.ag_code.co_qualname == "echo"
    assert repr(generator).startswith("<async_generator object echo at 0x")


async def outcome(awaitable):
    try:
        return await awaitable
    except BaseException as error:
        return type(error), str(error), repr(error.__cause__)


OPERATIONS = {
    "anext": lambda generator: generator.__anext__(),
    "asend": lambda generator: generator.asend(1),
    "lookup": lambda generator: generator.athrow(LookupError("thrown")),
    "key": lambda generator: generator.athrow(LookupError),
    "value": lambda generator: generator.athrow(ValueError("thrown")),
    "stop": lambda generator: generator.athrow(StopAsyncIteration()),
    "aclose": lambda generator: generator.aclose(),
}


def has_begun(events):
    """Whether the generator has given an item."""
    return any(isinstance(event[0], int) for event, *_ in events if isinstance(event, tuple))


THROW = ["lookup", "key", "value", "stop"]


@pytest.mark.parametrize("a", [sleeps, at_once])
async def test_all_orders_of_four_operations(loop, functions, a):
    """(T2.14)"""
    for order in itertools.product(OPERATIONS, repeat=4):
        seen = []
        for make in (functions.echo, python):
            generator = make(a)
            events = []
            for name in order:
                if name == "stop" and not has_begun(events):
                    continue  # CPython 3.11 raises RuntimeError, a debug build aborts
                event = await outcome(OPERATIONS[name](generator))
                events.append((event, generator.ag_running, generator.ag_frame is None))
            await generator.aclose()
            seen.append(repr(events))
        assert seen[0] == seen[1], order


async def test_an_exception_of_the_body(loop, functions):
    for error in (LookupError("end"), StopIteration(1), StopAsyncIteration()):
        generator = functions.numbers(1, error)
        assert await anext(generator) == 0
        if isinstance(error, LookupError):
            with pytest.raises(LookupError):
                await anext(generator)
        else:
            text = f"async generator raised {type(error).__name__}"
            with pytest.raises(RuntimeError, match=text) as caught:
                await anext(generator)
            assert caught.value.__cause__ is error
        with pytest.raises(StopAsyncIteration):
            await anext(generator)


async def test_an_exception_after_the_end(loop, functions):
    generator = functions.numbers(0)
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(generator)
    for name in THROW:
        # As CPython does.
        assert await OPERATIONS[name](generator) is None
    assert await generator.aclose() is None


async def test_two_calls_at_once(loop, functions):
    for make in (functions.echo, python):
        generator = make(sleeps)
        first = asyncio.ensure_future(outcome(generator.__anext__()))
        await asyncio.sleep(0)
        assert generator.ag_running
        for call, name in [
            (generator.__anext__(), "anext"),
            (generator.asend(None), "anext"),
            (generator.athrow(ValueError), "athrow"),
            (generator.aclose(), "aclose"),
        ]:
            text = f"{name}\\(\\): asynchronous generator is already running"
            with pytest.raises(RuntimeError, match=text):
                await call
        assert await first == (0, None)
        assert await anext(generator) == (1, None)
        await generator.aclose()


async def test_what_is_awaited_is_shown(loop, functions):
    generator = functions.echo(lambda: inner)
    inner = asyncio.sleep(100)
    assert generator.ag_await is None
    task = asyncio.ensure_future(outcome(generator.__anext__()))
    await asyncio.sleep(0)
    assert generator.ag_await is inner
    task.cancel()
    await asyncio.wait([task])
    assert generator.ag_await is None


async def test_cancelled(loop, functions):
    for make in (functions.echo, python):
        events = []

        async def inner():
            try:
                await asyncio.sleep(100)
            finally:
                events.append("finally")  # noqa: B023

        generator = make(inner)
        task = asyncio.ensure_future(outcome(generator.__anext__()))
        await asyncio.sleep(0)
        task.cancel()
        kind, *_ = await task
        assert kind is asyncio.CancelledError
        assert events == ["finally"]
        with pytest.raises(StopAsyncIteration):
            await anext(generator)


async def test_aclosing(loop, functions):
    """(T2.14)"""
    async with contextlib.aclosing(functions.echo(sleeps)) as generator:
        async for item in generator:
            if item[0] == 1:
                break
    with pytest.raises(StopAsyncIteration):
        await anext(generator)


async def test_one_that_ignores_aclose(loop, functions):
    generator = functions.ignores()
    await anext(generator)
    with pytest.raises(RuntimeError, match="async generator ignored GeneratorExit"):
        await generator.aclose()
    for call in (lambda: generator.athrow(ValueError), generator.aclose, generator.__anext__):
        with pytest.raises(StopAsyncIteration):
            await call()


async def test_it_cannot_return_a_value(loop, functions):
    with pytest.raises(TypeError, match="an async generator cannot return a value"):
        await anext(functions.returns())


async def test_broken_off(loop, functions):
    """The event loop closes it in a task (T2.14)."""
    closed = asyncio.Event()
    calls = []

    def a():
        calls.append(1)
        if len(calls) == 2:
            closed.set()
        return asyncio.sleep(0)

    async for _ in functions.echo(a):
        break
    gc.collect()
    await closed.wait()


def test_shutdown_asyncgens(functions):
    """(T2.14)"""
    import hybridloop

    calls = []

    def a():
        calls.append(1)
        return asyncio.sleep(0)

    generator = functions.echo(a)

    async def main():
        await anext(generator)

    with asyncio.Runner(loop_factory=hybridloop.new_event_loop) as runner:
        runner.run(main())
        assert calls == [1]
    assert calls == [1, 1]
    assert generator.ag_frame is None


def test_collected_without_a_loop(functions, monkeypatch):
    """Without hooks it is closed at once, and cannot await (T2.14)."""
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: reported.append(str(it.exc_value)))

    def drive(awaitable):
        with pytest.raises(StopIteration):
            awaitable.send(None)

    generator = functions.echo(at_once)
    drive(generator.__anext__())
    del generator
    assert reported == []
    awaitables = [at_once()]
    generator = functions.echo(lambda: awaitables.pop() if awaitables else sleeps())
    drive(generator.__anext__())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del generator
        gc.collect()
    assert reported == ["async generator ignored GeneratorExit"]


def test_never_iterated(functions):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        functions.echo(sleeps)
        gc.collect()


def test_a_cycle(functions):
    class A:
        def __call__(self):
            return asyncio.sleep(0)

    a = A()
    gone = weakref.ref(a)
    a.generator = functions.echo(a)
    del a
    gc.collect()
    assert gone() is None


def test_hooks(functions):
    first = []
    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=first.append, finalizer=lambda generator: None)
    try:
        generator = functions.echo(sleeps)
        assert first == []
        generator.aclose().close()
        generator.__anext__().close()
        assert first == [generator]
    finally:
        sys.set_asyncgen_hooks(*before)


async def test_a_call_is_a_coroutine(loop, functions):
    generator = functions.echo(sleeps)
    call = generator.asend(None)
    assert inspect.isawaitable(call)
    assert await call == (0, None)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await call
    with pytest.raises(TypeError):
        generator.athrow()
    with pytest.raises(TypeError):
        generator.athrow(1)
    await generator.aclose()
