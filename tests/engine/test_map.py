"""`engine.map()` and `engine.map_reduce()` with Python functions."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import operator
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import hybridloop
from hybridloop import Engine, EngineClosedError
from tests.support.waiting import until

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(gil_threads=3, tasks_per_thread=1) as engine:
        yield engine


def square(n: int) -> int:
    return n * n


async def collect(results: Any) -> list[Any]:
    return [result async for result in results]


@pytest.mark.parametrize("chunksize", [1, 7, 1000])
@pytest.mark.parametrize("buffersize", [None, 1, 10])
def test_results_in_order(engine: Engine, chunksize: int, buffersize: int | None) -> None:
    def mapped() -> Any:
        return engine.map(square, range(100), chunksize=chunksize, buffersize=buffersize)

    expected = list(map(square, range(100)))
    assert list(mapped()) == expected
    assert asyncio.run(collect(mapped())) == expected
    assert hybridloop.run(collect(mapped())) == expected
    # In a task that takes the only place on its thread.
    assert engine.spawn(collect(mapped())).result(60) == expected


def test_several_iterables_and_none(engine: Engine) -> None:
    assert list(engine.map(operator.mul, [1, 2, 3], iter([4, 5]))) == [4, 10]
    assert list(engine.map(square, [])) == []
    with pytest.raises(TypeError, match="at least one iterable"):
        engine.map(square)


def test_runs_on_every_thread_in_the_callers_context(engine: Engine) -> None:
    variable = contextvars.ContextVar("variable", default=0)
    together = threading.Barrier(3)

    def where(_: int) -> tuple[str, int]:
        together.wait(60)
        return threading.current_thread().name, variable.get()

    variable.set(5)
    seen = list(engine.map(where, range(6)))
    assert sorted({name for name, _ in seen}) == [f"hybridloop-gil-{n}" for n in range(3)]
    assert {value for _, value in seen} == {5}


def test_coroutine_functions_run_beside_each_other(engine: Engine) -> None:
    inside = most = 0
    lock = threading.Lock()
    all_in = threading.Event()

    async def fetch(n: int) -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            if inside == 50:
                all_in.set()
        while not all_in.is_set():
            await asyncio.sleep(0.001)
        with lock:
            inside -= 1
        return -n

    assert list(engine.map(fetch, range(50))) == [-n for n in range(50)]
    assert most == 50


def test_no_more_is_taken_than_may_be_under_way(engine: Engine) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = engine.map(square, items(), chunksize=2, buffersize=10)
    for given in range(1, 50):
        assert next(results) == given * given
        assert taken <= given + 10
    results.close()
    assert list(results) == []


def test_an_exception_comes_in_its_place_and_ends_the_iteration(engine: Engine) -> None:
    for chunksize in (1, 4):
        results = engine.map(lambda n: 1 // (7 - n), range(20), chunksize=chunksize)
        assert [next(results) for _ in range(7)] == [1 // (7 - n) for n in range(7)]
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert list(results) == []


def test_an_exception_of_the_iterable_comes_in_its_place(engine: Engine) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise LookupError("no more")

    for chunksize in (1, 3):
        results = engine.map(square, items(), chunksize=chunksize)
        assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
        with pytest.raises(LookupError, match="no more"):
            next(results)


def test_cancelling_who_iterates_cancels_what_runs(engine: Engine) -> None:
    running: list[int] = []
    cancelled: list[int] = []

    async def waits(n: int) -> None:
        running.append(n)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.append(n)
            raise

    async def main() -> None:
        task = asyncio.ensure_future(collect(engine.map(waits, range(1000), buffersize=30)))
        while len(running) < 30:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    hybridloop.run(main())
    until(lambda: len(cancelled) == 30)
    results = engine.map(waits, range(10), buffersize=5)
    until(lambda: len(running) == 35)
    del results
    gc.collect()
    until(lambda: len(cancelled) == 35)


def test_one_waits_at_a_time(engine: Engine) -> None:
    release = threading.Event()

    async def main() -> None:
        results = engine.map(lambda _: release.wait(600), range(3))
        first = asyncio.ensure_future(anext(results))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="waiting for the next result"):
            await anext(results)
        release.set()
        assert await first
        assert await collect(results) == [True, True]

    hybridloop.run(main())


def test_waiting_in_a_loops_thread_is_refused(engine: Engine) -> None:
    async def main() -> None:
        results = engine.map(square, range(3))
        with pytest.raises(RuntimeError, match="async for"):
            next(results)
        assert await collect(results) == [0, 1, 4]

    hybridloop.run(main())


def test_bad_arguments(engine: Engine) -> None:
    for call in (engine.map, lambda what, items: engine.map_reduce(what, square, items)):
        with pytest.raises(TypeError, match="a function or a kernel is expected, not 42"):
            call(42, range(3))
        with pytest.raises(LookupError, match="no.such.kernel"):
            call("no.such.kernel", range(3))
    with pytest.raises(TypeError, match="a function or a kernel"):
        engine.map_reduce(square, None, range(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not iterable"):
        engine.map(square, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not iterable"):
        engine.map_reduce(square, operator.add, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chunksize must be at least 1, not 0"):
        engine.map(square, [], chunksize=0)
    with pytest.raises(ValueError, match="buffersize must be at least 1, not 0"):
        engine.map(square, [], buffersize=0)
    with pytest.raises(EngineClosedError):
        Engine().map(square, [1])


def test_map_reduce(engine: Engine) -> None:
    expected = sum(n * n for n in range(1000))
    handle = engine.map_reduce(square, operator.add, range(1000), chunksize=50)
    assert handle.result(60) == expected
    assert handle.get_name() == "map_reduce square"

    async def main() -> Any:
        return await engine.map_reduce(square, operator.add, range(1000), 5, chunksize=50)

    assert asyncio.run(main()) == expected + 5
    # In order, so the reducer may be anything.
    text = engine.map_reduce(str, operator.add, range(20)).result(60)
    assert text == "".join(map(str, range(20)))
    assert engine.map_reduce(square, operator.add, [], 7).result(60) == 7
    with pytest.raises(TypeError, match="needs an initial value"):
        engine.map_reduce(square, operator.add, []).result(60)
    with pytest.raises(ZeroDivisionError):
        engine.map_reduce(lambda n: 1 // n, operator.add, range(3)).result(60)

    async def add(one: int, other: int) -> int:
        await asyncio.sleep(0)
        return one + other

    assert engine.map_reduce(square, add, range(10)).result(60) == 285


def test_cancelling_map_reduce(engine: Engine) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def waits(_: int) -> None:
        try:
            begun.set()
            await asyncio.sleep(600)
        finally:
            ended.set()

    handle = engine.map_reduce(waits, operator.add, range(3))
    assert begun.wait(60)
    assert handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        handle.result(60)
    assert ended.wait(60)


def test_close_waits_for_what_is_under_way() -> None:
    engine = Engine(gil_threads=2).start()
    results = engine.map(square, range(100), buffersize=20)
    handle = engine.map_reduce(square, operator.add, range(1000))
    assert engine.close() == []
    assert handle.result() == sum(n * n for n in range(1000))
    assert [next(results) for _ in range(20)] == [n * n for n in range(20)]
    with pytest.raises(EngineClosedError):
        next(results)
