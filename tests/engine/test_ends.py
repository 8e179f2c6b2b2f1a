"""The ends of an engine that docs/engine.md describes.

Private methods are replaced to interrupt them.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from contextlib import suppress

import pytest

import hybridloop
from hybridloop import Engine, EngineClosedError
from tests.support.leftovers import nothing_left
from tests.support.waiting import until

from .support import threads_of

pytestmark = pytest.mark.filterwarnings("error")


async def value(result: object) -> object:
    return result


def test_an_exception_in_a_callback_goes_to_the_loops_handler(engine: Engine) -> None:
    seen: list[dict[str, object]] = []

    async def breaks() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: seen.append(context))
        loop.call_soon(lambda: 1 / 0)
        loop.call_soon_threadsafe(lambda: 1 / 0)
        await asyncio.sleep(0)

    engine.spawn(breaks(), thread=0).result(60)
    until(lambda: len(seen) == 2)
    assert [type(context["exception"]) for context in seen] == [ZeroDivisionError] * 2
    assert engine.spawn(value(1), thread=0).result(60) == 1


def test_threads_that_cannot_be_started_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "hybridloop-gil-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    engine = Engine(gil_threads=4)
    with nothing_left(), monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            engine.start()
    with engine:
        assert engine.spawn(value(7)).result(60) == 7


def test_an_engine_that_is_dropped_ends_with_its_last_task() -> None:
    let_go = threading.Event()

    async def waits() -> str:
        while not let_go.is_set():
            await asyncio.sleep(0.001)
        return "done"

    engine = Engine(gil_threads=2, tasks_per_thread=1).start()
    threads = [thread.thread for thread in threads_of(engine)]
    handles = [engine.spawn(waits()) for _ in range(5)]
    with pytest.warns(ResourceWarning, match="unclosed <Engine gil_threads=2 open>"):
        del engine
        gc.collect()
    assert all(thread.is_alive() for thread in threads)
    let_go.set()
    assert [handle.result(60) for handle in handles] == ["done"] * 5
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_an_idle_engine_that_is_dropped_ends_at_once() -> None:
    engine = Engine().start()
    engine.spawn(value(1)).result(60)
    thread = threads_of(engine)[0].thread
    with pytest.warns(ResourceWarning, match="unclosed"):
        del engine
        gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_an_engine_that_was_never_started_needs_no_close() -> None:
    engine = Engine()
    reference = weakref.ref(engine)
    del engine
    gc.collect()
    assert reference() is None


def test_aclose_in_one_of_its_own_tasks_is_refused(engine: Engine) -> None:
    async def closes() -> None:
        await engine.aclose()

    with pytest.raises(RuntimeError, match="one of its own threads"):
        engine.spawn(closes()).result(60)


def test_tasks_of_tasks_that_do_not_end_are_named() -> None:
    let_go = threading.Event()

    async def stays() -> None:
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.001)

    kept: list[asyncio.Task[None]] = []

    async def parent() -> None:
        kept.append(asyncio.ensure_future(stays()))
        await asyncio.sleep(0)

    engine = Engine().start()
    engine.spawn(parent()).result(60)
    thread = threads_of(engine)[0].thread
    begin = time.monotonic()
    with pytest.warns(ResourceWarning, match=r"hybridloop-gil-0: .*stays"):
        left = engine.close(timeout=0.2)
    assert time.monotonic() - begin < 30
    assert len(left) == 1 and "stays" in left[0]
    let_go.set()
    thread.join(60)
    assert not thread.is_alive()


def test_a_close_that_was_interrupted_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine().start()
    handle = engine.spawn(asyncio.sleep(0.05, "slept"))
    scheduler = engine._scheduler
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "wait_idle", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.close()
    coroutine = value(1)
    with pytest.raises(EngineClosedError):
        engine.spawn(coroutine)
    coroutine.close()
    assert engine.close() == []
    assert handle.result() == "slept"
    assert not threads_of(engine)[0].thread.is_alive()


def _interrupt(_timeout: float | None) -> bool:
    raise KeyboardInterrupt


def test_in_a_forked_child_handles_say_what_is_wrong(engine: Engine) -> None:
    done = engine.spawn(value(5))
    done.result(60)
    open_ended = engine.spawn(asyncio.sleep(600))
    until(lambda: engine.stats().running == 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            failed = []
            if done.result() != 5:
                failed.append("result")
            for call in (
                open_ended.result,
                open_ended.exception,
                lambda: open_ended.add_done_callback(print),
                lambda: hybridloop.run(_await(open_ended)),
            ):
                try:
                    call()
                except EngineClosedError:
                    continue
                failed.append(repr(call))
            if open_ended.cancel() or engine.stats().running != 1 or engine.close() != []:
                failed.append("cancel, stats, close")
            os.write(2, "\n".join(failed).encode())
            status = len(failed)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert open_ended.cancel()


async def _await(awaitable: object) -> object:
    return await awaitable  # type: ignore[misc]


# In processes of their own


def run(source: str, *, interrupt: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a program; with `interrupt`, send it SIGINT as soon as it prints a line."""
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    try:
        first = ""
        if interrupt:
            assert process.stdout is not None
            first = process.stdout.readline()
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    return subprocess.CompletedProcess(process.args, process.returncode, first + out, err)


def test_the_end_of_the_process_ends_an_engine_that_runs() -> None:
    done = run("""
        import asyncio, hybridloop, threading
        running = threading.Event()
        async def task():
            try:
                running.set()
                await asyncio.sleep(600)
            finally:
                print("cleaned up", flush=True)
        engine = hybridloop.Engine(gil_threads=2).start()
        engine.spawn(task())
        running.wait()
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cleaned up\n"
    assert "ResourceWarning: unclosed <Engine gil_threads=2 open>" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_end_of_the_process_does_not_wait_for_a_task_that_blocks() -> None:
    done = run("""
        import hybridloop, threading, time
        running = threading.Event()
        async def blocks():
            running.set()
            time.sleep(600)
        engine = hybridloop.Engine().start()
        engine.spawn(blocks())
        running.wait()
    """)
    assert done.returncode == 0, done.stderr
    assert "closed before all work had ended: hybridloop-gil-0: blocks" in done.stderr


def test_keyboard_interrupt_in_the_main_thread_cancels_what_runs() -> None:
    done = run(
        """
        import asyncio, hybridloop
        async def task():
            try:
                print("running", flush=True)
                await asyncio.sleep(600)
            finally:
                print("cleaned up", flush=True)
        with hybridloop.Engine(gil_threads=2) as engine:
            engine.spawn(task()).result()
        """,
        interrupt=True,
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert done.stdout == "running\ncleaned up\n"
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


def test_keyboard_interrupt_in_close_leaves_it() -> None:
    done = run(
        """
        import asyncio, hybridloop, time
        async def blocks():
            print("running", flush=True)
            time.sleep(600)
        engine = hybridloop.Engine().start()
        engine.spawn(blocks())
        engine.close()
        """,
        interrupt=True,
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "KeyboardInterrupt" in done.stderr
    assert "hybridloop-gil-0: blocks" in done.stderr
