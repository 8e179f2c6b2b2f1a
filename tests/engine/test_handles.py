"""Handles of tasks: awaited, asked, cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import traceback
import weakref
from typing import Any

import pytest

import hybridloop
from hybridloop import Engine
from tests.support.waiting import until

from .support import Gate, fail, is_running, result_of, value

pytestmark = pytest.mark.filterwarnings("error")


def test_awaited_by_five_tasks_on_two_loops(engine: Engine) -> None:
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
        ready.wait(60)
        await asyncio.gather(*tasks)

    threads = [
        threading.Thread(target=hybridloop.run, args=(main(3),)),
        threading.Thread(target=asyncio.run, args=(main(2),)),
    ]
    for thread in threads:
        thread.start()
    ready.wait(60)
    gate.release()
    for thread in threads:
        thread.join(60)
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


def test_a_handle_that_is_kept_keeps_only_the_outcome(engine: Engine) -> None:
    class Large:
        pass

    large = Large()
    alive = weakref.ref(large)
    variable: contextvars.ContextVar[Large] = contextvars.ContextVar("large")
    context = contextvars.copy_context()
    context.run(variable.set, large)
    handle = engine.spawn(value(1), context=context)
    assert handle.result(60) == 1
    del context, large
    until(lambda: gc.collect() >= 0 and alive() is None)
    assert handle.result() == 1 and handle.get_name() == "value"
    assert repr(handle) == "<TaskHandle value finished>" and not handle.cancel()
    called: list[object] = []
    handle.add_done_callback(called.append)
    assert called == [handle]


def test_cancel_a_running_task(engine: Engine) -> None:
    cleaned = threading.Event()

    async def sleeps() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            cleaned.set()

    handle = engine.spawn(sleeps())
    until(lambda: is_running(handle))
    assert handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        handle.result(60)
    assert handle.cancelled() and cleaned.is_set() and not handle.cancel()


def test_cancel_at_once_after_spawn(engine: Engine) -> None:
    for _ in range(500):
        handle = engine.spawn(asyncio.sleep(600))
        assert handle.cancel()
        with pytest.raises(asyncio.CancelledError):
            handle.result(60)


def test_cancel_a_waiting_task() -> None:
    gate = Gate()
    with Engine(tasks_per_thread=1) as engine:
        running = engine.spawn(gate.enter())
        waiting = engine.spawn(gate.enter())
        assert waiting.cancel()
        assert waiting.cancelled()
        assert engine.stats().pending == 0
        gate.release()
        running.result(60)
    assert sum(gate.most.values()) == 1


def test_result_from_plain_threads(engine: Engine) -> None:
    gate = Gate()
    handle = engine.spawn(gate.enter())
    with pytest.raises(TimeoutError, match="enter did not end within 0.01 s"):
        handle.result(0.01)
    gate.release()
    assert handle.result(60).startswith("hybridloop-gil-")
    assert handle.exception() is None

    async def blocks() -> None:
        pending = engine.spawn(asyncio.sleep(600))
        try:
            with pytest.raises(asyncio.InvalidStateError, match="await handle"):
                pending.result()
        finally:
            pending.cancel()

    engine.spawn(blocks()).result(60)


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
        handles[0].result(60)


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
        tasks = [asyncio.ensure_future(result_of(handle)) for _ in range(20)]
        await asyncio.sleep(0)
        gate.release()
        await asyncio.gather(*tasks)

    hybridloop.run(main())
    assert calls == 1


def test_done_callbacks(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []
    handle = engine.spawn(value(1))
    handle.add_done_callback(seen.append)
    handle.add_done_callback(lambda _: 1 / 0)
    handle.result(60)
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


def test_each_raise_starts_with_the_traceback_of_the_task(engine: Engine) -> None:
    """Awaiting a failed task many times does not make its traceback longer and longer."""

    async def fails() -> None:
        raise LookupError("once")

    def length(error: BaseException) -> int:
        return len(traceback.extract_tb(error.__traceback__))

    def reduced(one: int, two: int) -> int:
        raise LookupError("once")

    for handle in (engine.spawn(fails()), engine.map_reduce(abs, reduced, [1, 2])):
        lengths = set()
        for _ in range(50):
            with pytest.raises(LookupError) as caught:
                handle.result(60)
            lengths.add(length(caught.value))
        assert len(lengths) == 1

        async def await_it(handle: Any = handle) -> int:
            with pytest.raises(LookupError) as caught:
                await handle
            return length(caught.value)

        assert len({asyncio.run(await_it()) for _ in range(50)}) == 1


def test_callbacks_run_outside_the_context_of_the_task(engine: Engine) -> None:
    """They see what they saw where they were added, and may enter the context of the task."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    context = contextvars.copy_context()
    seen: list[object] = []
    done = threading.Event()

    async def task() -> None:
        variable.set("task")

    def callback(_: object) -> None:
        seen.extend((variable.get(), context.run(variable.get)))
        done.set()

    variable.set("adder")
    handle = engine.spawn(task(), context=context)
    handle.add_done_callback(callback)
    assert done.wait(60)
    assert seen == ["adder", "task"]
    handle.add_done_callback(callback)
    assert seen == ["adder", "task"] * 2


def test_waits_that_time_out_leave_nothing_in_the_handle(engine: Engine) -> None:
    release = threading.Event()

    async def waits() -> int:
        await asyncio.to_thread(release.wait)
        return 5

    handle = engine.spawn(waits())
    before = len(gc.get_referents(handle))
    for _ in range(100):
        with pytest.raises(TimeoutError):
            handle.result(0.0001)
    gc.collect()
    waiting = [it for it in gc.get_objects() if type(it) is threading.Event]
    assert len(gc.get_referents(handle)) <= before + 1 and len(waiting) < 50
    release.set()
    assert handle.result(60) == 5
