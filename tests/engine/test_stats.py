"""`engine.stats()`: what runs, what waits, what the loops have done."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading

import pytest

import hybridloop
from hybridloop import Engine, EngineClosedError, LoopStats, NativeStats
from tests.support.waiting import until

from .support import threads_of


def test_before_start_and_after_close() -> None:
    engine = Engine(gil_threads=2, tasks_per_thread=5, max_pending=7)
    stats = engine.stats()
    assert stats.threads == ()
    assert (stats.tasks_per_thread, stats.max_pending) == (5, 7)
    assert (stats.running, stats.pending, stats.spawned, stats.capacity) == (0, 0, 0, 0)
    with engine:
        engine.spawn(asyncio.sleep(0)).result()
    stats = engine.stats()
    assert (stats.running, stats.pending, stats.spawned) == (0, 0, 1)
    assert [thread.name for thread in stats.threads] == ["hybridloop-gil-0", "hybridloop-gil-1"]
    assert stats.threads[0].loop.iterations > 0
    assert stats == engine.stats(), "nothing counts on after the end"


def test_what_runs_and_what_waits() -> None:
    release = threading.Event()

    async def wait() -> None:
        await asyncio.to_thread(release.wait)

    with Engine(gil_threads=2, tasks_per_thread=2) as engine:
        assert engine.stats().capacity == 4
        for _ in range(3):
            engine.spawn(wait(), thread=0)
        engine.spawn(wait(), thread=1)
        stats = engine.stats()
        assert [(it.running, it.pending, it.load) for it in stats.threads] == [
            (2, 1, 1.0),
            (1, 0, 0.5),
        ]
        assert (stats.running, stats.pending, stats.spawned) == (3, 1, 4)
        assert not any(it.failed for it in stats.threads)
        release.set()
        until(lambda: engine.stats().running == 0)
        assert engine.stats().pending == 0


def test_the_loops_count() -> None:
    async def loop_stats() -> LoopStats:
        for _ in range(100):
            await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, hybridloop.Loop)
        return loop.stats()

    with Engine(gil_threads=2) as engine:
        seen = engine.spawn(loop_stats(), thread=1).result()
        first, second = engine.stats().threads
        assert second.loop.callbacks >= seen.callbacks >= 100
        assert first.loop.callbacks < 100


def test_a_thread_that_failed() -> None:
    with Engine(gil_threads=2, tasks_per_thread=3) as engine:
        loop = engine.spawn(_running_loop(), thread=0).result()
        assert isinstance(loop, hybridloop.Loop)

        def fail() -> None:
            raise asyncio.CancelledError

        # What leaves run_forever() and is neither SystemExit nor KeyboardInterrupt ends the thread.
        threads_of(engine)[0].loop.run_forever = fail  # type: ignore[method-assign]
        loop.call_soon_threadsafe(loop.stop)
        until(lambda: engine.stats().threads[0].failed)
        assert not engine.stats().threads[1].failed
        assert engine.stats().capacity == 3
        refused = asyncio.sleep(0)
        with pytest.raises(EngineClosedError):
            engine.spawn(refused, thread=0)
        refused.close()


async def _running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_is_plain_data() -> None:
    with Engine(gil_threads=1) as engine:
        engine.spawn(asyncio.sleep(0)).result()
        stats = engine.stats()
    data = json.loads(json.dumps(dataclasses.asdict(stats)))
    assert data["threads"][0]["loop"]["iterations"] == stats.threads[0].loop.iterations
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.pending = 5  # type: ignore[misc]


def test_native_workers_and_the_bus() -> None:
    with Engine(native_threads=1, bus_capacity="1MiB") as engine:
        native, bus = engine.stats().native, engine.stats().bus
        assert native is not None and bus is not None
        assert (native.workers, native.busy, native.queued) == (1, 0, 0)
        assert (native.done, native.failed, native.cancelled) == (0, 0, 0)
        assert (bus.keys, bus.bytes, bus.capacity) == (0, 0, 2**20)
        running = engine.run_native("hl.sleep", 1000.0)
        # A job that begins is counted as queued for a moment yet.
        until(lambda: (native_of(engine).busy, native_of(engine).queued) == (1, 0))
        waiting = [engine.run_native("hl.noop") for _ in range(3)]
        assert native_of(engine).queued == 3
        waiting[2].cancel()
        running.cancel()
        for job in waiting[:2]:
            assert job.result(60) is None
        with pytest.raises(ValueError):
            engine.run_native("hl.zlib.decompress", b"this is not compressed").result(60)
        until(lambda: native_of(engine).busy == 0)
        native = native_of(engine)
        assert (native.done, native.failed, native.cancelled, native.queued) == (2, 1, 2, 0)
        engine.bus.push("key", b"x" * 1000)
        bytes(engine.bus.get("key"))
        bus = engine.stats().bus
        assert bus is not None
        assert (bus.keys, bus.bytes, bus.writes, bus.reads) == (1, 1000, 1, 1)
        assert native_of(engine).memory >= 1000


def native_of(engine: Engine) -> NativeStats:
    native = engine.stats().native
    assert native is not None
    return native
