"""`metrics.snapshot()`: all open loops and engines of the process.

Their private registries are checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import hybridloop
from hybridloop import Engine, metrics
from hybridloop.engine.engine import _engines, open_engines
from hybridloop.loop.loop import _loops, open_loops
from hybridloop.metrics import ProcessStats
from hybridloop.metrics.snapshot import FORMAT, EngineInfo

# Other tests may have left loops and engines, which go whenever they are collected: each test looks
# at its own.


def known() -> set[int]:
    return {number for number, _ in open_loops()}


def number_of(loop: asyncio.AbstractEventLoop) -> int:
    (number,) = (number for number, it in open_loops() if it is loop)
    return number


def info_of(engine: Engine) -> EngineInfo | None:
    numbers = [number for number, it in open_engines() if it is engine]
    return next((it for it in metrics.snapshot().engines if it.number in numbers), None)


@contextlib.contextmanager
def running(loop: asyncio.AbstractEventLoop, name: str) -> Iterator[None]:
    """The loop runs in a thread."""
    thread = threading.Thread(target=loop.run_forever, name=name)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(60)
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def test_a_loop_is_known_until_it_is_closed() -> None:
    before = known()
    loop = hybridloop.new_event_loop()
    try:
        number = number_of(loop)
        assert number > max(before, default=0)
        (info,) = (it for it in metrics.snapshot().loops if it.number == number)
        assert (info.thread, info.running, info.tasks) == ("", False, 0)
        assert info.stats == loop.stats()
    finally:
        loop.close()
    assert number not in known()
    assert number not in [it.number for it in metrics.snapshot().loops]


def test_a_loop_is_not_kept() -> None:
    loop = hybridloop.new_event_loop()
    loop.close()
    (number,) = (number for number, it in _loops.items() if it is loop)
    del loop
    gc.collect()
    assert number not in dict(_loops.items())


def test_the_thread_and_the_tasks() -> None:
    loop = hybridloop.new_event_loop()
    other = hybridloop.new_event_loop()
    try:
        with running(loop, "the thread"):
            futures = [
                asyncio.run_coroutine_threadsafe(asyncio.sleep(1000), loop) for _ in range(5)
            ]
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(60)
            infos = {it.number: it for it in metrics.snapshot().loops}
            ours, idle = infos[number_of(loop)], infos[number_of(other)]
            assert (ours.thread, ours.running, ours.tasks) == ("the thread", True, 5)
            assert (idle.thread, idle.running, idle.tasks) == ("", False, 0)
            assert ours.stats.timers == 5
            uncounted = {it.number: it.tasks for it in metrics.snapshot(tasks=False).loops}
            assert set(uncounted.values()) == {None}
            for future in futures:
                future.cancel()
        (stopped,) = (it for it in metrics.snapshot().loops if it.number == ours.number)
        assert (stopped.thread, stopped.running) == ("the thread", False)
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()
        other.close()


def test_a_loop_that_makes_tasks_all_the_time() -> None:
    """Their set changes while it is looked at."""
    loop = hybridloop.new_event_loop()
    number = number_of(loop)
    begun, end = threading.Event(), threading.Event()

    async def make() -> int:
        made = 0
        while not end.is_set():
            tasks = [asyncio.ensure_future(asyncio.sleep(0)) for _ in range(2000)]
            made += len(tasks)
            begun.set()
            await asyncio.wait(tasks)
        return made

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(loop.run_until_complete, make())
        try:
            assert begun.wait(60)
            counts = []
            for _ in range(20):
                (info,) = (it for it in metrics.snapshot().loops if it.number == number)
                assert info.tasks is not None
                counts.append(info.tasks)
        finally:
            end.set()
            assert future.result(60) > 0
            loop.close()
    assert max(counts) <= 2001


def test_an_engine() -> None:
    before = threads_of_engines()
    with Engine(gil_threads=2, tasks_per_thread=3) as engine:
        handle = engine.spawn(asyncio.sleep(1000))
        info = info_of(engine)
        assert info is not None
        assert info.stats.running == 1
        assert threads_of_engines() - before <= {"hybridloop-gil-0", "hybridloop-gil-1"}
        handle.cancel()
    assert info.number not in [it.number for it in metrics.snapshot().engines]
    with Engine() as engine:
        later = info_of(engine)
        assert later is not None and later.number > info.number


def threads_of_engines() -> set[str]:
    threads = (it.thread for it in metrics.snapshot().loops)
    return {name for name in threads if name.startswith("hybridloop-gil-")}


def test_the_native_workers_of_loops_outside_engines(run_script) -> None:  # type: ignore[no-untyped-def]
    """They are included once they are in use; a snapshot does not make them."""
    run_script("""
        import hybridloop
        from hybridloop import metrics

        async def main():
            seen = metrics.snapshot()
            assert seen.native is None and seen.bus is None, seen
            loop = asyncio.get_running_loop()
            await loop.run_native("hl.noop")
            loop.bus.push("key", b"12345")
            seen = metrics.snapshot()
            assert seen.native.done == 1, seen
            assert (seen.bus.keys, seen.bus.bytes) == (1, 5), seen
            assert metrics.ProcessStats.from_dict(seen.as_dict()) == seen

        hybridloop.run(main())
        with hybridloop.Engine() as engine:
            engine.run_native("hl.noop").result()
            (info,) = metrics.snapshot().engines
            assert info.stats.native.done == 1
            assert metrics.snapshot().native.done == 1, "each has its own"
    """)


def test_an_engine_that_did_not_start() -> None:
    engine = Engine()
    assert info_of(engine) is None
    assert engine not in dict(_engines.items()).values()
    engine.close()


def test_survives_json() -> None:
    with Engine(gil_threads=1) as engine:
        engine.spawn(asyncio.sleep(0)).result()
        snapshot = metrics.snapshot()
    assert snapshot.pid == os.getpid()
    text = json.dumps(snapshot.as_dict())
    assert ProcessStats.from_dict(json.loads(text)) == snapshot
    # One of a later version may have more keys, one of an earlier version fewer.
    data = json.loads(text)
    data["more"] = data["loops"][0]["stats"]["more"] = 1
    del data["loops"][0]["stats"]["ready"]
    assert ProcessStats.from_dict(data).loops[0].stats.ready == 0


@pytest.mark.parametrize(
    "data", [None, [], {}, {"format": 1}, {"format": FORMAT}, {"format": FORMAT, "loops": 5}]
)
def test_other_data_is_refused(data: object) -> None:
    with pytest.raises(ValueError):
        ProcessStats.from_dict(data)  # type: ignore[arg-type]


def test_a_forked_child_starts_anew() -> None:
    loop = hybridloop.new_event_loop()
    try:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                before = len(metrics.snapshot().loops)
                own = hybridloop.new_event_loop()
                os.write(write, f"{before} {len(metrics.snapshot().loops)}".encode())
                own.close()
            finally:
                os._exit(0)
        os.close(write)
        with open(read) as pipe:
            assert pipe.read() == "0 1"
        os.waitpid(pid, 0)
        assert loop in [it for _, it in open_loops()]
    finally:
        loop.close()
