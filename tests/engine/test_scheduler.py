"""Where the tasks of an engine go: its capacity, and the choice of a thread."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

import hybridloop
from hybridloop import Engine, EngineFullError
from tests.support.waiting import until

from .support import Gate, running_on, value

pytestmark = pytest.mark.filterwarnings("error")


def test_three_thousand_at_once_and_the_next_waits() -> None:
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
        names = Counter(handle.result(60) for handle in handles)
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
        # A place is free again right after the result is there.
        until(lambda: running_on(engine) == [0, 0])
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
        assert first.result(60) == second.result(60)
        assert engine.spawn(third).result(60) == first.result()


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


# Which thread a task runs on


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
        handle.result(60)
    assert {handle.result(60) for handle in pinned} == {"hybridloop-gil-1"}
    with pytest.raises(IndexError, match="thread 2 of an engine with 2"):
        engine.spawn(counted := (n for n in range(3)), thread=2)
    counted.close()


def test_generators_run_as_in_the_runner(engine: Engine) -> None:
    def counts() -> Generator[Any, Any, int]:
        yield
        yield 0.001
        return (yield value(42))

    assert engine.spawn(counts()).result(60) == 42


def test_context_is_a_copy_of_the_callers(engine: Engine) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    async def read_and_set() -> str:
        before = variable.get()
        variable.set("in the task")
        return before

    variable.set("here")
    assert engine.spawn(read_and_set()).result(60) == "here"
    assert variable.get() == "here"
    context = contextvars.Context()
    assert engine.spawn(read_and_set(), context=context).result(60) == "unset"
    assert context[variable] == "in the task"


def test_bad_arguments(engine: Engine) -> None:
    with pytest.raises(TypeError, match="a coroutine or a generator is expected"):
        engine.spawn(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gil_threads must be at least 1, not 0"):
        Engine(gil_threads=0)
    with pytest.raises(TypeError, match="tasks_per_thread must be an int, not float"):
        Engine(tasks_per_thread=1.5)  # type: ignore[arg-type]
