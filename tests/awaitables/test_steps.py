"""Coroutines of steps."""

import asyncio
import gc
import sys
import warnings
import weakref

import pytest

from .support import finish

pytestmark = pytest.mark.improves_on_asyncio


@pytest.fixture(scope="module")
def steps(extension):
    return extension("steps")


@pytest.fixture(autouse=True)
def nothing_stays(steps):
    assert steps.live() == 0
    yield
    gc.collect()
    assert steps.live() == 0


async def gives(value):
    await asyncio.sleep(0)
    return value


async def fails(error):
    await asyncio.sleep(0)
    raise error


def getter(*results):
    """A function that gives these one after the other, as its coroutines do."""
    results = iter(results)

    def get():
        result = next(results)
        return fails(result) if isinstance(result, Exception) else gives(result)

    return get


async def python(get, number):
    try:
        value = await get()
    except TimeoutError:
        value = await get()
    product = value * number
    for _ in range(3):
        await asyncio.sleep(0)
    return product


async def outcome(coroutine):
    try:
        return await coroutine
    except Exception as error:
        return repr(error)


@pytest.mark.parametrize(
    "results",
    [
        [6],
        [TimeoutError(), 6],
        [TimeoutError(), TimeoutError("again")],
        [TimeoutError(), LookupError()],
        [LookupError()],
        [None],
    ],
)
async def test_the_program_of_the_header(loop, steps, results):
    """(T2.12)"""
    ours = await outcome(steps.new("retry", getter(*results), 7))
    assert ours == await outcome(python(getter(*results), 7))


@pytest.mark.parametrize("first", [TimeoutError("call"), LookupError("call")])
async def test_the_call_fails(loop, steps, first):
    """An exception of the call is one of the await (T2.12)."""

    def make():
        errors = [first]

        def get():
            if errors:
                raise errors.pop()
            return gives(6)

        return get

    assert await outcome(steps.new("retry", make(), 7)) == await outcome(python(make(), 7))


async def test_what_cannot_be_awaited(loop, steps):
    with pytest.raises(TypeError, match="await"):
        await steps.new("retry", lambda: 1, 7)
    result, errors = await steps.new("stubborn", iter([1, gives(2)]).__next__, [])
    assert result == 2
    assert [type(error) for error in errors] == [TypeError]


async def test_cancelled(loop, steps):
    """(T2.12)"""
    events = []

    async def inner():
        try:
            events.append("began")
            await asyncio.sleep(100)
        finally:
            events.append("finally")

    task = asyncio.ensure_future(steps.new("retry", inner, 7))
    while not events:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events == ["began", "finally"]


async def test_cancelled_while_it_sleeps(loop, steps):
    ready = asyncio.Event()

    async def inner():
        ready.set()
        return 1

    task = asyncio.ensure_future(steps.new("retry", inner, 7))
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_close_is_seen_as_an_exception(steps):
    """As in a coroutine of Python, `close()` can be dealt with, or ignored by a mistake."""

    class Yields:
        def __await__(self):
            yield

    async def at_once():
        return "end"

    errors = []
    awaitables = [at_once(), Yields()]
    coroutine = steps.new("stubborn", awaitables.pop, errors)
    coroutine.send(None)
    # Since Python 3.13 close() gives the result.
    assert coroutine.close() == (("end", errors) if sys.version_info >= (3, 13) else None)
    assert [type(error) for error in errors] == [GeneratorExit]
    awaitables = [at_once(), Yields(), Yields(), Yields()]
    coroutine = steps.new("stubborn", awaitables.pop, [])
    coroutine.send(None)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="coroutine ignored GeneratorExit"):
            coroutine.close()
    coroutine.close()


async def test_an_exception_while_one_is_handled(loop, steps):
    first = LookupError("first")
    with pytest.raises(KeyError, match="in the handler") as caught:
        await steps.new("raises_in_handler", lambda: fails(first))
    assert caught.value.__context__ is first
    assert sys.exc_info()[1] is None


async def test_thrown_before_the_first_step(loop, steps):
    called = []
    coroutine = steps.new("retry", lambda: called.append(1), 7)
    with pytest.raises(LookupError):
        coroutine.throw(LookupError)
    assert called == []


async def test_many_awaits(loop, steps):
    """(T2.12)"""

    async def at_once():
        pass

    def get(i):
        return None if i == 100_000 else at_once()

    assert await steps.new("loop", get) == 100_000
    assert await steps.new("loop", lambda i: asyncio.sleep(0) if i < 1000 else None) == 1000


def test_the_end_returns_none(steps):
    assert finish(steps.new("ends")) is None


@pytest.mark.parametrize("end", ["return", "error", "cancel", "close", "collect", "never"])
async def test_the_state_is_dropped(loop, steps, end):
    """`drop` is called exactly once (T2.12)."""
    coroutine = steps.new("retry", lambda: asyncio.sleep(0, 1), 7)
    assert steps.live() == 1
    match end:
        case "return":
            assert await coroutine == 7
        case "error":
            coroutine.send(None)
            with pytest.raises(LookupError):
                coroutine.throw(LookupError)
        case "cancel":
            task = asyncio.ensure_future(coroutine)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            del task
        case "close":
            coroutine.send(None)
            coroutine.close()
        case "collect":
            coroutine.send(None)
        case "never":
            with pytest.warns(RuntimeWarning, match="'tests.steps.retry' was never awaited"):
                del coroutine
                gc.collect()
    if end not in ("collect", "never"):
        assert steps.live() == 0
        del coroutine
    elif end == "collect":
        del coroutine
    assert steps.live() == 0


def test_a_cycle_through_the_state(steps):
    class Get:
        def __call__(self):
            return asyncio.sleep(0)

    get = Get()
    gone = weakref.ref(get)
    get.coroutine = steps.new("retry", get, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del get
        gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (0, "error without an exception"),
        (1, "NULL without an exception"),
        (2, "an exception is set"),
        (3, "unknown value"),
        (4, "HLA_RERAISE without an exception"),
        (5, "NULL without an exception"),
        (6, "an exception is set"),
    ],
)
def test_faults_of_a_step(steps, fault, text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SystemError, match=text) as caught:
            steps.new("faulty", lambda: gives(1), fault).send(None)
    if text == "an exception is set":
        assert repr(caught.value.__cause__) == repr(LookupError("forgotten"))


def test_a_line_that_is_none(steps):
    with pytest.raises(SystemError, match="went on where there is none"):
        steps.new("lost").send(None)


def test_yield_in_a_coroutine(steps):
    with pytest.raises(SystemError, match="HLA_YIELD in a coroutine"):
        steps.new("yields").send(None)


def test_a_wait_without_a_waker(steps):
    with pytest.raises(RuntimeError, match="HLA_WAIT without a waker"):
        steps.new("waits_for_nobody").send(None)


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        (0, ValueError, "is NULL"),
        (1, ValueError, "wrong size"),
        (2, ValueError, "no step"),
        (3, ValueError, "unknown flags"),
        (4, MemoryError, "^$"),
    ],
)
def test_wrong_specs(steps, spec, error, text):
    with pytest.raises(error, match=text):
        steps.refused(spec)
