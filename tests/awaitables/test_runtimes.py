"""Extensions that use pyo3-async-runtimes, on hybridloop's loop and on asyncio's (T2.20)."""

import asyncio
import contextvars

import pytest

import hybridloop

from .support import until

# The crates are built by the first test that needs them, which takes as long as it does.
pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.timeout(600, func_only=True)]

FACTORIES = {"hybridloop": hybridloop.new_event_loop, "asyncio": asyncio.SelectorEventLoop}


@pytest.fixture(params=FACTORIES)
def run(request):
    def run(main):
        with asyncio.Runner(loop_factory=FACTORIES[request.param]) as runner:
            return runner.run(main)

    return run


async def gives(value):
    await asyncio.sleep(0)
    return value


def test_futures_of_tokio(runtimes, run):
    async def main():
        assert await runtimes.nothing() == ()  # PyO3's `()`
        assert await runtimes.sleeps(0.001, 5) == 5
        assert runtimes.current_loop() is asyncio.get_running_loop()
        with pytest.raises(LookupError, match="on purpose"):
            await runtimes.fails()

    run(main())


def test_awaiting_python(runtimes, run):
    async def fails():
        raise LookupError("in Python")

    async def main():
        for relay in (runtimes.relay, runtimes.relay_with_locals, runtimes.relay_scoped):
            assert await relay(gives(5)) == 5
            assert await relay(runtimes.sleeps(0, 6)) == 6
            with pytest.raises(LookupError, match="in Python"):
                await relay(fails())

    run(main())


def test_contexts(runtimes, run):
    variable = contextvars.ContextVar("variable", default="outside")

    async def inner():
        await asyncio.sleep(0)
        return variable.get()

    async def main():
        variable.set("inside")
        assert await runtimes.relay_with_locals(inner()) == "inside"
        assert await runtimes.relay_scoped(inner()) == "inside"

    run(main())


def test_a_panic(runtimes, run):
    async def main():
        with pytest.raises(Exception, match="rust future panicked") as caught:
            await runtimes.panics(True)
        assert type(caught.value).__name__ == "RustPanic"

    run(main())


def test_cancelling_drops_the_future(runtimes, run):
    async def main():
        log = runtimes.Log()
        for cancel in (1, 2):
            task = asyncio.ensure_future(log.for_ever())
            await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(60):
                while len(log.events()) < cancel:
                    await asyncio.sleep(0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.002):
                await runtimes.sleeps(100, None)

    run(main())


def test_a_cancellation_stops_at_rust(runtimes, rust, run):
    """Their limit, and what hybridloop-async does instead."""

    async def main():
        for module, seen in ((runtimes.relay, "ended"), (rust.given, "cancelled")):
            events, go_on = [], asyncio.Event()

            async def inner(events=events, go_on=go_on):
                try:
                    events.append("began")
                    await go_on.wait()
                except asyncio.CancelledError:
                    events.append("cancelled")
                    raise
                events.append("ended")

            task = asyncio.ensure_future(module(inner()))
            await until(lambda: events)  # noqa: B023
            task.cancel()
            await asyncio.wait([task])
            go_on.set()
            await until(lambda: len(events) == 2)  # noqa: B023
            assert events == ["began", seen]

    run(main())


def test_many_in_flight(runtimes, run):
    """Also while threads of Tokio and the loop are busy."""

    async def main():
        futures = [runtimes.sleeps(0.001 * (n % 10), n) for n in range(10_000)]
        assert await asyncio.gather(*futures) == list(range(10_000))
        relayed = [runtimes.relay(gives(n)) for n in range(1_000)]
        assert await asyncio.gather(*relayed) == list(range(1_000))

    run(main())


@pytest.mark.parametrize("name", FACTORIES)
def test_a_loop_that_does_not_run(runtimes, name):
    loop = FACTORIES[name]()
    try:
        assert runtimes.complete(loop, 21) == 42
        assert runtimes.complete(loop, 4) == 8
    finally:
        loop.close()


def test_their_run_makes_a_loop_of_asyncio(runtimes):
    """There is no factory: `run_until_complete()` is for other loops."""
    assert "EventLoop" in runtimes.runs()
    assert runtimes.runs() != type(hybridloop.new_event_loop()).__name__


def test_beside_hybridloop_async(runtimes, rust, run):
    """Both in one program, one awaits the other."""

    async def main():
        assert await rust.given(runtimes.sleeps(0.001, 5)) == 5
        assert await runtimes.relay(rust.given(gives(6))) == 6
        assert await rust.within(lambda: runtimes.sleeps(100, None), seconds=0.001) is None
        assert await rust.unordered([runtimes.sleeps(0, 1), gives(1)]) == [1, 1]

    run(main())
