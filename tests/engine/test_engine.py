"""`hybridloop.Engine`: placement, capacity, handles, and its end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any

import pytest

import hybridloop
from hybridloop import Engine, EngineClosedError, EngineFullError

pytestmark = pytest.mark.filterwarnings("error")


class Gate:
    """Tasks that wait until they are let go, in whichever thread they are."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        self.inside: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.open = False

    async def enter(self) -> str:
        name = threading.current_thread().name
        with self.lock:
            self.inside[name] += 1
            self.most[name] = max(self.most[name], self.inside[name])
            waiter = None
            if not self.open:
                loop = asyncio.get_running_loop()
                waiter = loop.create_future()
                self.waiting.setdefault(loop, []).append(waiter)
        try:
            if waiter is not None:
                await waiter
            await asyncio.sleep(0)
            return name
        finally:
            with self.lock:
                self.inside[name] -= 1

    def release(self) -> None:
        with self.lock:
            self.open = True
            waiting, self.waiting = self.waiting, {}
        for loop, waiters in waiting.items():
            with suppress(RuntimeError):  # the loop of a thread that has failed
                loop.call_soon_threadsafe(self._wake, waiters)

    @staticmethod
    def _wake(waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.001)


async def value(result: Any) -> Any:
    await asyncio.sleep(0)
    return result


async def fail(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


def running_on(engine: Engine) -> list[int]:
    return [thread.running for thread in engine.stats().threads]


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(gil_threads=2, tasks_per_thread=10) as engine:
        yield engine


# Capacity


def test_t0_1_three_thousand_at_once_and_the_next_waits() -> None:
    gate = Gate()
    with Engine(gil_threads=3, tasks_per_thread=1000) as engine:
        handles = [engine.spawn(gate.enter()) for _ in range(3000)]
        until(lambda: sum(gate.inside.values()) == 3000)
        handles.append(engine.spawn(gate.enter()))
        assert running_on(engine) == [1000, 1000, 1000]
        assert engine.stats().pending == 1
        time.sleep(0.05)
        assert sum(gate.inside.values()) == 3000
        gate.release()
        names = Counter(handle.result(20) for handle in handles)
    assert set(gate.most.values()) == {1000}
    assert sorted(names.values())[-1] <= 1001


def test_the_cap_holds_under_cancellation_exceptions_and_many_short_tasks() -> None:
    most: Counter[int] = Counter()
    inside: Counter[int] = Counter()

    async def short(n: int) -> int:
        me = threading.get_ident()
        inside[me] += 1
        most[me] = max(most[me], inside[me])
        try:
            await asyncio.sleep(0)
            if n % 7 == 0:
                raise LookupError(n)
            return n
        finally:
            inside[me] -= 1

    with Engine(gil_threads=2, tasks_per_thread=50) as engine:
        handles = [engine.spawn(short(n)) for n in range(100_000)]
        for handle in handles[::5]:
            handle.cancel()
        outcomes: Counter[str] = Counter()
        for n, handle in enumerate(handles):
            try:
                assert handle.result(60) == n
                outcomes["value"] += 1
            except LookupError:
                outcomes["error"] += 1
            except asyncio.CancelledError:
                assert n % 5 == 0
                outcomes["cancelled"] += 1
        assert running_on(engine) == [0, 0]
    assert max(most.values()) <= 50
    assert sum(outcomes.values()) == 100_000
    assert outcomes["value"] > 50_000


def test_full_engine_refuses_and_leaves_the_coroutine_alone() -> None:
    gate = Gate()
    with Engine(tasks_per_thread=1, max_pending=1) as engine:
        first, second = engine.spawn(gate.enter()), engine.spawn(gate.enter())
        third = gate.enter()
        with pytest.raises(EngineFullError, match="spawn_wait"):
            engine.spawn(third)
        gate.release()
        assert first.result(20) == second.result(20)
        assert engine.spawn(third).result(20) == first.result()


def test_spawn_wait_waits_for_room() -> None:
    gate = Gate()

    async def main(engine: Engine) -> None:
        handles = [await engine.spawn_wait(gate.enter()) for _ in range(2)]
        waits = asyncio.ensure_future(engine.spawn_wait(gate.enter()))
        given_up = asyncio.ensure_future(engine.spawn_wait(gate.enter()))
        await asyncio.sleep(0.02)
        assert not waits.done()
        given_up.cancel()
        gate.release()
        handles.append(await waits)
        assert len({await handle for handle in handles}) == 1
        with pytest.raises(asyncio.CancelledError):
            await given_up

    with Engine(tasks_per_thread=1, max_pending=1) as engine:
        hybridloop.run(main(engine))


# Placement


def test_least_loaded_and_pinned(engine: Engine) -> None:
    gate = Gate()
    handles = [engine.spawn(gate.enter()) for _ in range(10)]
    until(lambda: sum(gate.inside.values()) == 10)
    assert running_on(engine) == [5, 5]
    pinned = [engine.spawn(gate.enter(), thread=1) for _ in range(8)]
    until(lambda: running_on(engine) == [5, 10])
    assert engine.stats().pending == 3
    gate.release()
    for handle in handles:
        handle.result(20)
    assert {handle.result(20) for handle in pinned} == {"hybridloop-gil-1"}
    with pytest.raises(IndexError, match="thread 2 of an engine with 2"):
        engine.spawn(counted := (n for n in range(3)), thread=2)
    counted.close()


def test_generators_run_as_in_the_runner(engine: Engine) -> None:
    def counts() -> Generator[Any, Any, int]:
        yield
        yield 0.001
        return (yield value(42))

    assert engine.spawn(counts()).result(20) == 42


def test_context_is_a_copy_of_the_callers(engine: Engine) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    async def read_and_set() -> str:
        before = variable.get()
        variable.set("in the task")
        return before

    variable.set("here")
    assert engine.spawn(read_and_set()).result(20) == "here"
    assert variable.get() == "here"
    context = contextvars.Context()
    assert engine.spawn(read_and_set(), context=context).result(20) == "unset"
    assert context[variable] == "in the task"


# Handles


def test_t0_2_awaited_by_five_tasks_on_two_loops(engine: Engine) -> None:
    thing = object()
    gate = Gate()

    async def gives() -> object:
        await gate.enter()
        return thing

    async def raises() -> None:
        await gate.enter()
        raise LookupError("shared")

    good, bad = engine.spawn(gives()), engine.spawn(raises())
    seen: list[object] = []
    ready = threading.Barrier(3)

    async def ask() -> None:
        seen.append(await good)
        with pytest.raises(LookupError, match="shared"):
            await bad
        seen.append("raised")

    async def main(count: int) -> None:
        tasks = [asyncio.ensure_future(ask()) for _ in range(count)]
        await asyncio.sleep(0)
        ready.wait(20)
        await asyncio.gather(*tasks)

    threads = [
        threading.Thread(target=hybridloop.run, args=(main(3),)),
        threading.Thread(target=asyncio.run, args=(main(2),)),
    ]
    for thread in threads:
        thread.start()
    ready.wait(20)
    gate.release()
    for thread in threads:
        thread.join(20)
    assert [it is thing for it in seen if it != "raised"] == [True] * 5
    assert seen.count("raised") == 5
    assert good.result() is thing
    assert isinstance(bad.exception(), LookupError)


def test_cancelling_one_who_awaits_leaves_the_task(engine: Engine) -> None:
    gate = Gate()
    handle = engine.spawn(gate.enter())

    async def main() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await handle
        assert not handle.done()
        gate.release()
        return await handle

    assert hybridloop.run(main()).startswith("hybridloop-gil-")


def test_cancel_a_running_task(engine: Engine) -> None:
    cleaned = threading.Event()

    async def sleeps() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    handle = engine.spawn(sleeps())
    until(lambda: handle._task is not None)
    assert handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        handle.result(20)
    assert handle.cancelled() and cleaned.is_set() and not handle.cancel()


def test_cancel_at_once_after_spawn(engine: Engine) -> None:
    for _ in range(500):
        handle = engine.spawn(asyncio.sleep(60))
        assert handle.cancel()
        with pytest.raises(asyncio.CancelledError):
            handle.result(20)


def test_cancel_a_waiting_task() -> None:
    gate = Gate()
    with Engine(tasks_per_thread=1) as engine:
        running = engine.spawn(gate.enter())
        waiting = engine.spawn(gate.enter())
        assert waiting.cancel()
        assert waiting.cancelled()
        assert engine.stats().pending == 0
        gate.release()
        running.result(20)
    assert sum(gate.most.values()) == 1


def test_result_from_plain_threads(engine: Engine) -> None:
    handle = engine.spawn(asyncio.sleep(0.3, "slept"))
    with pytest.raises(TimeoutError, match="sleep has not ended within 0.01 s"):
        handle.result(0.01)
    assert handle.result(20) == "slept"
    assert handle.exception() is None

    async def blocks() -> None:
        pending = engine.spawn(asyncio.sleep(60))
        try:
            with pytest.raises(asyncio.InvalidStateError, match="await handle"):
                pending.result()
        finally:
            pending.cancel()

    engine.spawn(blocks()).result(20)


def test_a_task_cannot_await_itself(engine: Engine) -> None:
    handles: list[Any] = []
    ready = threading.Event()

    async def awaits_itself() -> None:
        while not ready.is_set():
            await asyncio.sleep(0)
        await handles[0]

    handles.append(engine.spawn(awaits_itself()))
    ready.set()
    with pytest.raises(RuntimeError, match="cannot await itself"):
        handles[0].result(20)


def test_one_wake_for_all_who_await_on_a_loop(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    handle = engine.spawn(gate.enter())
    calls = 0

    async def main() -> None:
        loop = asyncio.get_running_loop()
        original = loop.call_soon_threadsafe

        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
        tasks = [asyncio.ensure_future(_await(handle)) for _ in range(20)]
        await asyncio.sleep(0)
        gate.release()
        await asyncio.gather(*tasks)

    hybridloop.run(main())
    assert calls == 1


async def _await(awaitable: Any) -> Any:
    return await awaitable


def test_done_callbacks(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []
    handle = engine.spawn(value(1))
    handle.add_done_callback(seen.append)
    handle.add_done_callback(lambda _: 1 / 0)
    handle.result(20)
    until(lambda: "ZeroDivisionError" in caplog.text)
    assert seen == [handle]
    handle.add_done_callback(seen.append)
    assert seen == [handle, handle]


def test_error_that_nobody_asks_for_is_logged(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    handle = engine.spawn(fail(LookupError("lost")), name="forgotten")
    until(handle.done)
    del handle
    until(lambda: gc.collect() >= 0 and "forgotten was never retrieved" in caplog.text)
    assert "LookupError: lost" in caplog.text


def test_bad_arguments(engine: Engine) -> None:
    with pytest.raises(TypeError, match="a coroutine or a generator is expected"):
        engine.spawn(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gil_threads must be at least 1, not 0"):
        Engine(gil_threads=0)
    with pytest.raises(TypeError, match="tasks_per_thread must be an int, not float"):
        Engine(tasks_per_thread=1.5)  # type: ignore[arg-type]


# The end


def test_close_waits_for_everything() -> None:
    done: list[int] = []

    async def work(n: int) -> None:
        await asyncio.sleep(0.01)
        done.append(n)

    engine = Engine(tasks_per_thread=2)
    assert engine.setup() is engine.start() is engine
    for n in range(10):
        engine.spawn(work(n))
    assert engine.close() == []
    assert sorted(done) == list(range(10))
    assert engine.close() == []
    coroutine = value(1)
    with pytest.raises(EngineClosedError, match="not open"):
        engine.spawn(coroutine)
    coroutine.close()
    with pytest.raises(EngineClosedError, match="make a new one"):
        engine.start()


def test_close_cancels_what_does_not_end_in_time() -> None:
    cleaned: list[str] = []

    async def sleeps(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(name)

    engine = Engine(tasks_per_thread=1).start()
    running, waiting = engine.spawn(sleeps("running")), engine.spawn(sleeps("waiting"))
    until(lambda: running_on(engine) == [1] and running._task is not None)
    begin = time.monotonic()
    assert engine.close(timeout=0.4) == []
    assert time.monotonic() - begin < 2
    assert running.cancelled() and waiting.cancelled()
    assert cleaned == ["running"]


def test_close_returns_in_time_and_names_what_it_left() -> None:
    release = threading.Event()

    async def stubborn() -> None:
        release.wait(60)

    engine = Engine().start()
    handle = engine.spawn(stubborn())
    thread = engine._threads[0].thread
    until(lambda: handle._task is not None)
    begin = time.monotonic()
    with pytest.warns(ResourceWarning, match=r"hybridloop-gil-0: .*stubborn"):
        left = engine.close(timeout=0.2)
    assert time.monotonic() - begin < 2
    assert len(left) == 1
    with pytest.raises(EngineClosedError, match="did not end in time"):
        handle.result()
    release.set()
    thread.join(20)
    assert not thread.is_alive()


def test_an_exception_in_the_body_cancels() -> None:
    with pytest.raises(KeyError), Engine() as engine:
        handle = engine.spawn(asyncio.sleep(60))
        raise KeyError
    assert handle.cancelled()


def test_async_context_manager() -> None:
    async def main() -> int:
        async with Engine(gil_threads=2) as engine:
            return sum(await asyncio.gather(*(_await(engine.spawn(value(n))) for n in range(10))))

    assert asyncio.run(main()) == hybridloop.run(main()) == 45


def test_close_from_its_own_thread_is_refused(engine: Engine) -> None:
    async def closes() -> None:
        engine.close()

    with pytest.raises(RuntimeError, match="one of its own threads"):
        engine.spawn(closes()).result(20)


def test_a_loop_that_is_stopped_goes_on(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    async def stops() -> None:
        asyncio.get_running_loop().stop()

    engine.spawn(stops(), thread=0).result(20)
    assert engine.spawn(value(1), thread=0).result(20) == 1
    assert "was stopped; it goes on" in caplog.text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_system_exit_in_a_task_is_its_own(
    engine: Engine, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    handle = engine.spawn(fail(kind("bye")), thread=0)
    with pytest.raises(kind, match="bye"):
        handle.result(20)
    assert engine.spawn(value(1), thread=0).result(20) == 1
    assert "does not end the engine" in caplog.text


def test_a_thread_that_fails_takes_only_its_own_tasks(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    thread = engine._threads[0]
    lost = [engine.spawn(gate.enter(), thread=0) for _ in range(12)]
    kept = engine.spawn(gate.enter(), thread=1)
    until(lambda: sum(gate.inside.values()) == 11)

    def broken() -> None:
        raise OSError("the selector is gone")

    thread.loop.run_forever = broken  # type: ignore[method-assign]
    thread.loop.call_soon_threadsafe(thread.loop.stop)
    for handle in lost:
        with pytest.raises(EngineClosedError, match="the selector is gone"):
            handle.result(20)
    gate.release()
    assert kept.result(20) == "hybridloop-gil-1"
    assert engine.spawn(value(1)).result(20) == 1
    coroutine = value(1)
    with pytest.raises(EngineClosedError, match="hybridloop-gil-0 has failed"):
        engine.spawn(coroutine, thread=0)
    coroutine.close()
    thread.thread.join(20)
    del lost
    with warnings.catch_warnings():
        # The tasks that died with their loop.
        warnings.simplefilter("ignore")
        gc.collect()


def test_fork_leaves_the_parents_engine_alone(engine: Engine) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            coroutine = value(1)
            try:
                engine.spawn(coroutine)
            except EngineClosedError:
                coroutine.close()
                with Engine() as own:
                    status = 0 if own.spawn(value(42)).result(20) == 42 else 2
                engine.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert engine.spawn(value(1)).result(20) == 1


def test_nothing_is_left_of_many_engines() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))

    before = descriptors(), threading.active_count()
    for _ in range(30):
        with Engine(gil_threads=3) as engine:
            for _ in range(10):
                engine.spawn(value(1))
    assert (descriptors(), threading.active_count()) == before


def test_what_tasks_have_left_behind_is_cancelled_at_the_end() -> None:
    ended: list[str] = []
    kept: list[asyncio.Task[None]] = []

    async def child() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("child")

    async def parent() -> None:
        kept.append(asyncio.ensure_future(child()))
        await asyncio.sleep(0)

    with Engine() as engine:
        engine.spawn(parent()).result(20)
    assert ended == ["child"]
