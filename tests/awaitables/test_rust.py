"""Async functions written in Rust with hybridloop-async."""

import asyncio
import contextvars
import gc
import inspect
import subprocess
import sys
import threading
import warnings

import pytest
import trio
import uvloop

import hybridloop
from tests import memory

from .support import Inner, begin, finish, times_out, until

# The crates are built by the first test that needs them, which takes as long as it does.
pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.timeout(600, func_only=True)]

FACTORIES = {
    "hybridloop": hybridloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=FACTORIES)
def run(request):
    """Runs a coroutine on a loop."""

    def run(main):
        with asyncio.Runner(loop_factory=FACTORIES[request.param]) as runner:
            return runner.run(main)

    return run


async def gives(value, turns=1):
    for _ in range(turns):
        await asyncio.sleep(0)
    return value


async def fails(error):
    await asyncio.sleep(0)
    raise error


def test_what_is_awaited(rust, run):
    async def main():
        assert await rust.relay(lambda: gives(5)) == 5
        assert await rust.given(gives(6)) == 6
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, 7)
        assert await rust.given(future) == 7
        assert await rust.given(rust.relay(lambda: rust.given(gives(8)))) == 8
        assert await asyncio.create_task(rust.given(gives(9))) == 9

    run(main())


def test_no_result(rust):
    assert finish(rust.nothing()) is None
    assert finish(rust.yields(0)) == 0


def test_errors(rust, run):
    async def main():
        with pytest.raises(LookupError, match="on purpose"):
            await rust.fails()
        with pytest.raises(ZeroDivisionError):
            await rust.relay(lambda: 1 / 0)
        with pytest.raises(LookupError, match="later"):
            await rust.relay(lambda: fails(LookupError("later")))
        with pytest.raises(TypeError, match="int"):
            await rust.given(5)
        with pytest.raises(StopAsyncIteration):
            await rust.relay(lambda: fails(StopAsyncIteration()))
        outcomes = iter([fails(LookupError()), fails(KeyError()), gives(5)])
        assert await rust.retry(lambda: next(outcomes)) == (3, 5)

    run(main())


def test_a_lone_awaitable_stays_in_its_task(rust, run):
    """The awaitable is driven in place: the same task, and the same context."""
    variable = contextvars.ContextVar("variable")

    async def inner():
        variable.set("inside")
        await asyncio.sleep(0)
        return asyncio.current_task()

    async def main():
        assert await rust.relay(inner) is asyncio.current_task()
        assert variable.get() == "inside"
        assert await rust.given(inner()) is asyncio.current_task()

    run(main())


def test_several_at_once(rust, run):
    async def main():
        async with asyncio.timeout(60):
            both = asyncio.Barrier(2)
            await rust.try_joined(both.wait, both.wait)
        slow, fast = gives("slow", 5), gives("fast")
        assert await rust.unordered([slow, gives("middle", 3), fast]) == ["fast", "middle", "slow"]
        assert await rust.unordered([gives("alone")]) == ["alone"]
        assert await rust.unordered([]) == []
        joined = await rust.joined(lambda: gives(1), lambda: fails(LookupError("two")))
        assert joined == ("1", "LookupError: two")
        for other in (lambda: gives(5), lambda: 1 / 0):
            first, second = await rust.joined(lambda: 5, other)
            assert first.startswith("TypeError")
            assert second in ("5", "ZeroDivisionError: division by zero")

    run(main())


def test_what_is_not_needed_is_cancelled(rust, run):
    """(T2.18) The loser of `select!` and the rest of `try_join!`."""

    async def main():
        async def within(inner, seconds):
            assert await rust.within(inner.wait, seconds=seconds) is None

        inner = await times_out(within)
        await until(lambda: len(inner.events) == 3)
        assert inner.events == ["began", "cancelled", "finally"]
        assert await rust.within(lambda: gives(5)) == 5
        inner = Inner()
        with pytest.raises(LookupError):
            await rust.try_joined(inner.wait, lambda: fails(LookupError()))
        await until(lambda: len(inner.events) == 3)
        assert inner.events == ["began", "cancelled", "finally"]

    run(main())


@pytest.mark.parametrize("form", ["relay", "joined", "within", "unordered"])
def test_cancelling_reaches_python(rust, run, form):
    """(T2.18)"""

    def coroutine(inner):
        if form == "relay":
            return rust.relay(inner.wait)
        if form == "within":
            return rust.within(inner.wait, seconds=100)
        if form == "joined":
            return rust.try_joined(inner.wait, lambda: gives(5))
        return rust.unordered([inner.wait(), gives("suppressed")])

    results = {
        "relay": "suppressed",
        "within": "suppressed",
        "joined": ("suppressed", 5),
        "unordered": ["suppressed", "suppressed"],
    }

    async def wait_for(inner, seconds):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(coroutine(inner), seconds)

    async def main():
        for _ in range(3):
            inner = Inner()
            task = await begin(coroutine(inner), inner)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
            assert inner.events == ["began", "cancelled", "finally"]

            inner = Inner(suppress=True)
            task = await begin(coroutine(inner), inner)
            task.cancel()
            assert await task == results[form]
            assert task.cancelling() == 1
            assert inner.events == ["began", "cancelled", "finally"]

            inner = await times_out(wait_for)
            assert inner.events == ["began", "cancelled", "finally"]

    run(main())


def test_timeout_and_task_group(rust, run):
    async def main():
        inner = Inner()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.002):
                await rust.relay(inner.wait)
        assert inner.events == ["began", "cancelled", "finally"]
        inner, other = Inner(), Inner()
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(rust.relay(inner.wait))
                group.create_task(rust.within(other.wait, seconds=100))
                group.create_task(rust.relay(lambda: fails(LookupError())))
        assert [type(error) for error in caught.value.exceptions] == [LookupError]
        assert inner.events == other.events == ["began", "cancelled", "finally"]
        inner = Inner()
        shielded = await begin(rust.relay(inner.wait), inner)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(shielded), 0.002)
        assert inner.events == ["began"]
        shielded.cancel()
        await asyncio.gather(shielded, return_exceptions=True)
        assert inner.events == ["began", "cancelled", "finally"]

    run(main())


def test_cancelling_drops_a_future_of_rust(rust, run):
    """(T2.18)"""

    async def main():
        for _ in range(10):
            dropped = []
            task = asyncio.ensure_future(rust.for_ever(dropped))
            await asyncio.sleep(0)
            assert dropped == []
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert dropped == ["dropped"]
        task = asyncio.ensure_future(rust.spawned(100, 1))
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_told_of_a_cancellation(rust, run):
    """(T2.18) `Cx::on_cancel()`"""

    async def main():
        for suppress in (False, True):
            events = []
            task = asyncio.ensure_future(rust.told(events, suppress))
            await asyncio.sleep(0)
            task.cancel("because")
            await asyncio.wait([task])
            assert events == ["told"]
            assert task.cancelled() is not suppress
            assert not suppress or task.result() == "because"

    run(main())


def test_every_end_drops_the_future(rust, run):
    async def main():
        dropped = []
        assert await rust.guarded(dropped, lambda: gives(5)) == 5
        with pytest.raises(LookupError):
            await rust.guarded(dropped, lambda: fails(LookupError()))
        closed = rust.guarded(dropped, lambda: gives(5))
        closed.send(None)
        closed.close()
        assert len(dropped) == 3
        thrown = rust.for_ever(dropped)
        thrown.send(None)
        with pytest.raises(KeyError):
            thrown.throw(KeyError())
        assert len(dropped) == 4
        waiting = rust.for_ever(dropped)
        waiting.send(None)
        waiting.close()
        assert len(dropped) == 5
        collected = rust.for_ever(dropped)
        collected.send(None)
        del collected
        gc.collect()
        assert len(dropped) == 6
        with pytest.warns(RuntimeWarning, match="coroutine '.*for_ever' was never awaited"):
            del [rust.for_ever(dropped)][0]
            gc.collect()
        # Its body has not begun.
        assert len(dropped) == 6

    run(main())


def test_closing_closes_what_is_awaited(rust):
    events = []

    async def inner():
        try:
            await asyncio.sleep(0)
        finally:
            events.append(sys.exception())

    coroutine = rust.relay(inner)
    coroutine.send(None)
    coroutine.close()
    assert [type(event) for event in events] == [GeneratorExit]
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        coroutine.send(None)


def test_futures_of_tokio(rust, run):
    """(T2.18)"""

    async def main():
        assert await rust.spawned(0, 21) == 42
        assert await rust.spawned(0.002, 21) == 42
        assert await rust.mixed(lambda: gives(1)) == 134
        assert await asyncio.gather(*(rust.spawned(0.001, n) for n in range(1, 500))) == [
            2 * n for n in range(1, 500)
        ]
        # A panic in a thread of Tokio.
        with pytest.raises(ValueError, match="true"):
            await rust.spawned(0, 0)
        assert await rust.made(4) == 5

    run(main())


def test_timers(rust, run):
    """(T2.18)"""

    async def main():
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(*(rust.sleeps(0.02) for _ in range(100)))
        assert loop.time() - start > 0.019
        await rust.sleeps(0)
        task = asyncio.ensure_future(rust.sleeps(100))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


@pytest.mark.parametrize("late", [False, True])
def test_a_panic(rust, run, late, capfd):
    """(T2.18)"""

    async def main():
        with pytest.raises(RuntimeError, match="^the future panicked: oh no$"):
            await rust.panics("oh no", late)
        assert await rust.relay(lambda: gives(5)) == 5

    run(main())
    assert "oh no" in capfd.readouterr().err


def test_a_panic_in_a_destructor(rust, run, monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: reported.append(str(it.exc_value)))

    async def main():
        task = asyncio.ensure_future(rust.bomb())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run(main())
    assert reported == ["the future panicked: in a destructor"]


def test_a_future_that_wakes_itself_lets_others_run(rust, run):
    async def main():
        turns = 0
        task = asyncio.ensure_future(rust.yields(1000))
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert task.result() == 1000
        assert turns > 500

    run(main())


def test_no_wake_is_lost(rust, run):
    async def main():
        for _ in range(20):
            assert await rust.counts(4, 1000) >= 1
        assert await rust.counts(8, 50_000) >= 1
        assert len(await asyncio.gather(*(rust.counts(1, 10) for _ in range(200)))) == 200

    run(main())


def test_functions(rust):
    assert type(rust.relay) is hybridloop.AsyncFunction
    if sys.version_info >= (3, 12):
        assert inspect.iscoroutinefunction(rust.relay)
        assert inspect.iscoroutinefunction(rust.Counter(1).count)
    assert rust.relay.__name__ == "relay"
    assert rust.relay.__doc__ == "Await what a call gives."
    assert str(inspect.signature(rust.relay)) == "(make)"
    assert str(inspect.signature(rust.within)) == "(make, *, seconds=1.0)"
    assert not hasattr(rust, "other_name")
    assert finish(rust.renamed(1)) == 3
    assert finish(rust.renamed(1, 3, 4, 5, six=6)) == 19
    with pytest.raises(TypeError, match=r"relay\(\) missing 1 required positional argument"):
        rust.relay()
    with pytest.raises(TypeError, match="'str' object"):
        rust.renamed("1")
    coroutine = rust.relay(lambda: gives(1))
    assert (type(coroutine).__name__, coroutine.__qualname__) == ("StepCoroutine", "relay")
    coroutine.close()
    coroutine = rust.made(1)
    assert coroutine.__qualname__ == "async_functions.made"
    coroutine.close()


def test_methods(rust, run):
    counter = rust.Counter(3)
    assert counter.step == 3
    assert rust.Counter.count.__doc__ == "Count on."
    assert str(inspect.signature(counter.count)) == "(number, times=1)"
    assert str(inspect.signature(rust.Counter.count)) == "(self, /, number, times=1)"

    async def main():
        assert await counter.count(1) == 4
        assert await counter.count(1, times=3) == 10
        assert await rust.Counter.count(counter, number=2) == 5
        assert await counter.me() is counter

    run(main())
    with pytest.raises(TypeError, match="count"):
        counter.count()
    with pytest.raises(TypeError):
        rust.Counter.count(5, 1)


def test_only_a_coroutine_can_await(rust):
    coroutine = gives(1)
    with pytest.raises(RuntimeError, match="only a coroutine of hybridloop-async"):
        rust.outside(coroutine)
    coroutine.close()


def test_trio(rust):
    """Python's awaitables, one at a time."""

    async def main():
        async def inner():
            await trio.sleep(0.001)
            return 5

        assert await rust.relay(inner) == 5
        seen = []

        async def cancelled():
            try:
                await trio.sleep(100)
            except trio.Cancelled:
                seen.append("cancelled")
                raise

        with trio.move_on_after(0.001) as scope:
            await rust.relay(cancelled)
        assert scope.cancelled_caught
        assert seen == ["cancelled"]
        with pytest.raises(RuntimeError, match="no running event loop"):
            await rust.try_joined(inner, inner)
        with pytest.raises(RuntimeError, match="no running event loop"):
            await rust.sleeps(0)
        with pytest.raises(RuntimeError, match="no running event loop"):
            await rust.pooled(10)
        with pytest.raises(RuntimeError, match="no running event loop"):
            await rust.yields(1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trio.run(main)


@pytest.mark.skipif(not memory.available, reason="needs mallinfo2() of glibc 2.33")
def test_no_memory_stays(rust):
    dropped = []

    async def cancelled():
        task = asyncio.ensure_future(rust.for_ever(dropped))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        dropped.clear()

    async def main(n):
        for _ in range(n):
            await rust.relay(lambda: gives(1))
            await rust.try_joined(lambda: gives(1), lambda: gives(2))
            await rust.within(lambda: gives(1))
            await asyncio.gather(rust.relay(lambda: fails(KeyError())), return_exceptions=True)
            await rust.spawned(0, 1)
            await rust.made(1)
            rust.relay(gives).close()
            await cancelled()
        gc.collect()

    with asyncio.Runner(loop_factory=hybridloop.new_event_loop) as runner:
        runner.run(main(500))
        before = memory.in_use()
        runner.run(main(5_000))
    assert memory.in_use() - before < 300_000


def test_two_loops_at_once(rust):
    """Each coroutine is polled and woken in its own thread."""
    results = []

    def serve():
        async def main():
            return sum(await asyncio.gather(*(rust.spawned(0.001, n) for n in range(1, 100))))

        with asyncio.Runner(loop_factory=hybridloop.new_event_loop) as runner:
            results.append(runner.run(main()))

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [9900] * 4


PROGRAM = """
import asyncio, sys
import hybridloop
from pathlib import Path
from tests.awaitables.support import load_crate

folder, factory, what, end = sys.argv[1:]
rust = load_crate(Path(folder), "async_functions")

async def main():
    coroutines = {
        "pool": [rust.pooled(2), rust.pooled(100)],
        "tokio": [rust.spawned(n / 1000, 1) for n in range(30)],
        "threads": [rust.woken_for_ever(3)],
    }[what]
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0.002)
    return tasks

loop = {"hybridloop": hybridloop.new_event_loop, "asyncio": asyncio.SelectorEventLoop}[factory]()
tasks = loop.run_until_complete(main())
loop.set_exception_handler(lambda *args: None)
if end == "closed":
    loop.close()
"""


@pytest.mark.parametrize("factory", ["hybridloop", "asyncio"])
@pytest.mark.parametrize("what", ["pool", "tokio", "threads"])
@pytest.mark.parametrize("end", ["waiting", "closed"])
def test_pending_at_exit(crates, factory, what, end):
    """(T2.19) The pool finishes, or wakes, while the interpreter ends and afterwards."""
    for _ in range(9):
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM, crates, factory, what, end]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
