"""How an engine is closed, and what becomes of its tasks and threads."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import warnings

import pytest

import hybridloop
from hybridloop import Engine, EngineClosedError
from tests.support.leftovers import nothing_left
from tests.support.waiting import until

from .support import Gate, fail, is_running, result_of, running_on, threads_of, value

pytestmark = pytest.mark.filterwarnings("error")


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
    with pytest.raises(EngineClosedError, match="make a new one"):
        engine.spawn(coroutine)
    with pytest.raises(EngineClosedError, match="use 'with engine:' or start()"):
        Engine().spawn(coroutine)
    coroutine.close()
    with pytest.raises(EngineClosedError, match="make a new one"):
        engine.start()


def test_close_cancels_what_does_not_end_in_time() -> None:
    cleaned: list[str] = []

    async def sleeps(name: str) -> None:
        try:
            await asyncio.sleep(600)
        finally:
            cleaned.append(name)

    engine = Engine(tasks_per_thread=1).start()
    running, waiting = engine.spawn(sleeps("running")), engine.spawn(sleeps("waiting"))
    until(lambda: running_on(engine) == [1] and is_running(running))
    begin = time.monotonic()
    # One second of it is for the end of what is cancelled.
    assert engine.close(timeout=4) == []
    assert time.monotonic() - begin < 30
    assert running.cancelled() and waiting.cancelled()
    assert cleaned == ["running"]


def test_close_returns_in_time_and_names_what_it_left() -> None:
    release = threading.Event()

    async def stubborn() -> None:
        release.wait(600)

    engine = Engine().start()
    handle = engine.spawn(stubborn())
    thread = threads_of(engine)[0].thread
    until(lambda: is_running(handle))
    begin = time.monotonic()
    with pytest.warns(ResourceWarning, match=r"hybridloop-gil-0: .*stubborn"):
        left = engine.close(timeout=0.2)
    assert time.monotonic() - begin < 30
    assert len(left) == 1
    with pytest.raises(EngineClosedError, match="did not end in time"):
        handle.result()
    release.set()
    thread.join(60)
    assert not thread.is_alive()


def test_an_exception_in_the_body_cancels() -> None:
    with pytest.raises(KeyError), Engine() as engine:
        handle = engine.spawn(asyncio.sleep(600))
        raise KeyError
    assert handle.cancelled()


def test_async_context_manager() -> None:
    async def main() -> int:
        async with Engine(gil_threads=2) as engine:
            handles = [engine.spawn(value(n)) for n in range(10)]
            return sum(await asyncio.gather(*(result_of(handle) for handle in handles)))

    assert asyncio.run(main()) == hybridloop.run(main()) == 45


def test_close_from_its_own_thread_is_refused(engine: Engine) -> None:
    async def closes() -> None:
        engine.close()

    with pytest.raises(RuntimeError, match="one of its own threads"):
        engine.spawn(closes()).result(60)


def test_a_loop_that_is_stopped_goes_on(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    async def stops() -> None:
        asyncio.get_running_loop().stop()

    engine.spawn(stops(), thread=0).result(60)
    assert engine.spawn(value(1), thread=0).result(60) == 1
    assert "was stopped; running it again" in caplog.text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_system_exit_in_a_task_is_its_own(
    engine: Engine, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    handle = engine.spawn(fail(kind("bye")), thread=0)
    with pytest.raises(kind, match="bye"):
        handle.result(60)
    assert engine.spawn(value(1), thread=0).result(60) == 1
    assert f"ignored {kind.__name__}" in caplog.text


def test_a_thread_that_fails_takes_only_its_own_tasks(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    thread = threads_of(engine)[0]
    lost = [engine.spawn(gate.enter(), thread=0) for _ in range(12)]
    kept = engine.spawn(gate.enter(), thread=1)
    until(lambda: sum(gate.inside.values()) == 11)

    def broken() -> None:
        raise OSError("the selector is gone")

    thread.loop.run_forever = broken  # type: ignore[method-assign]
    thread.loop.call_soon_threadsafe(thread.loop.stop)
    for handle in lost:
        with pytest.raises(EngineClosedError, match="the selector is gone"):
            handle.result(60)
    gate.release()
    assert kept.result(60) == "hybridloop-gil-1"
    assert engine.spawn(value(1)).result(60) == 1
    coroutine = value(1)
    with pytest.raises(EngineClosedError, match="hybridloop-gil-0 has failed"):
        engine.spawn(coroutine, thread=0)
    coroutine.close()
    thread.thread.join(60)
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
                    status = 0 if own.spawn(value(42)).result(60) == 42 else 2
                engine.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert engine.spawn(value(1)).result(60) == 1


def test_nothing_is_left_of_many_engines() -> None:
    with nothing_left():
        for _ in range(30):
            with Engine(gil_threads=3) as engine:
                for _ in range(10):
                    engine.spawn(value(1))


def test_what_tasks_have_left_behind_is_cancelled_at_the_end() -> None:
    ended: list[str] = []
    kept: list[asyncio.Task[None]] = []

    async def child() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.append("child")

    async def parent() -> None:
        kept.append(asyncio.ensure_future(child()))
        await asyncio.sleep(0)

    with Engine() as engine:
        engine.spawn(parent()).result(60)
    assert ended == ["child"]
