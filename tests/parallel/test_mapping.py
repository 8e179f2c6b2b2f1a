"""`map()` and `map_reduce()`: order, errors, callbacks, and kernels."""

from __future__ import annotations

import asyncio
import operator
import threading
import zlib
from typing import Any

import pytest

from hybridloop import parallel


def fail_at(limit: int) -> Any:
    def function(n: int) -> int:
        if n == limit:
            raise LookupError(n)
        return n

    return function


def test_functions_in_order() -> None:
    threads: set[bool] = set()

    def square(n: int) -> int:
        threads.add(parallel.is_parallel_thread())
        return n * n

    for chunksize in (1, 7):
        results = parallel.map(square, range(100), chunksize)
        assert [*results] == [n * n for n in range(100)]
    assert threads == {True}


def test_functions_that_wait_for_each_other() -> None:
    """All of them are in a thread at the same time."""
    barrier = threading.Barrier(2)
    assert [*parallel.map(lambda _: barrier.wait(60), range(2))] in ([0, 1], [1, 0])


def test_kernels_run_on_native_workers() -> None:
    shards = [bytes([n]) * 1000 for n in range(50)]
    results = parallel.map("hl.crc32", shards)
    assert [*results] == [zlib.crc32(shard) for shard in shards]


def test_items_are_taken_as_results_are_asked_for() -> None:
    taken: list[int] = []

    def items() -> Any:
        for n in range(1_000_000):
            taken.append(n)
            yield n

    results = parallel.map(str, items())
    assert next(results) == "0"
    assert len(taken) < 10_000
    results.close()


def test_in_a_coroutine() -> None:
    async def double(n: int) -> int:
        await asyncio.sleep(0.001)
        return 2 * n

    async def main() -> list[int]:
        return [n async for n in parallel.map(double, range(20))]

    assert asyncio.run(main()) == [*range(0, 40, 2)]


def test_an_exception_comes_in_its_place() -> None:
    results = parallel.map(fail_at(3), range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(LookupError, match="3"):
        next(results)
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        [*parallel.map(lambda _: next(iter(())), [1])]


def test_callbacks() -> None:
    seen: list[Any] = []
    handle = parallel.map(pow2, range(5), 2, seen.append)
    parallel.run()
    assert seen == [[0, 1, 4, 9, 16]] and handle.result() == seen[0]
    parallel.map(fail_at(3), range(5), errback=seen.append)
    parallel.run()
    assert seen[1][0] is LookupError
    parallel.map(fail_at(3), range(5), callback=seen.append)
    with pytest.raises(LookupError):
        parallel.run()
    parallel.run()


def pow2(n: int) -> int:
    return n * n


def test_map_reduce() -> None:
    seen: list[Any] = []
    handle = parallel.map_reduce(pow2, operator.add, range(100), 0, callback=seen.append)
    parallel.run()
    assert seen == [handle.result()] == [sum(n * n for n in range(100))]
    assert parallel.map_reduce(str, operator.add, "abc").result(60) == "abc"
    assert parallel.map_reduce(str, operator.add, "abc", "_", 2).result(60) == "_abc"
    with pytest.raises(TypeError, match="needs an initial value"):
        parallel.map_reduce(str, operator.add, "", errback=lambda _: None).result(60)
    parallel.map_reduce(fail_at(3), operator.add, range(5), errback=seen.append)
    parallel.run()
    assert seen[1][0] is LookupError


def test_maps_within_jobs() -> None:
    """Every thread of the pool waits for a map; the calls find other threads."""

    def outer(n: int) -> int:
        return sum(parallel.map(pow2, range(n)))

    assert [*parallel.map(outer, range(30))] == [sum(i * i for i in range(n)) for n in range(30)]
    handles = [parallel.submit_work(lambda: parallel.submit_work(pow2, 3).result(60))] * 30
    parallel.run()
    assert {handle.result() for handle in handles} == {9}


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="a function or a kernel is expected, not 5"):
        parallel.map(5, [])  # type: ignore[arg-type]
    with pytest.raises(LookupError):
        parallel.map("no.such.kernel", [])
    with pytest.raises(ValueError, match="chunksize must be at least 1"):
        parallel.map(str, [], 0)
    with pytest.raises(TypeError):
        parallel.map(str, 5)  # type: ignore[arg-type]
