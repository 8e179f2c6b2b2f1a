"""The options of `engine.map()`: any order, timeout, priority, exceptions as results.

Two private attributes of a map tell what is under way and when it ends.
"""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

import hybridloop
from hybridloop import Engine
from tests.support.waiting import until

pytestmark = pytest.mark.filterwarnings("error")

# A kernel that runs until it is cancelled.
LONG = 1000.0


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(gil_threads=2, native_threads=2) as engine:
        yield engine


async def collect(results: Any) -> list[Any]:
    return [result async for result in results]


@pytest.mark.parametrize("chunksize", [1, 7, 1000])
@pytest.mark.parametrize("buffersize", [None, 1, 10])
def test_all_results_in_any_order(engine: Engine, chunksize: int, buffersize: int | None) -> None:
    data = [b"%d" % n for n in range(100)]

    def mapped(function: Any) -> Any:
        return engine.map(function, data, chunksize=chunksize, buffersize=buffersize, ordered=False)

    expected = sorted(map(zlib.crc32, data))
    for function in (zlib.crc32, "hl.crc32"):
        assert sorted(mapped(function)) == expected
        assert sorted(asyncio.run(collect(mapped(function)))) == expected
        assert sorted(hybridloop.run(collect(mapped(function)))) == expected
        assert sorted(engine.spawn(collect(mapped(function))).result(100)) == expected
    assert list(engine.map(zlib.crc32, [], ordered=False)) == []


def test_results_of_functions_as_they_come(engine: Engine) -> None:
    released = threading.Event()

    async def wait_first(n: int) -> int:
        while n == 0 and not released.is_set():
            await asyncio.sleep(0.001)
        return n

    results = engine.map(wait_first, range(5), ordered=False)
    assert sorted(next(results) for _ in range(4)) == [1, 2, 3, 4]
    released.set()
    assert list(results) == [0]

    async def main() -> None:
        released.clear()
        results = engine.map(wait_first, range(5), ordered=False)
        assert sorted([await anext(results) for _ in range(4)]) == [1, 2, 3, 4]
        released.set()
        assert await collect(results) == [0]

    asyncio.run(main())
    hybridloop.run(main())


def test_results_of_kernels_as_they_come(engine: Engine) -> None:
    results = engine.map("hl.sleep", [LONG, 0, 0, 0, 0, 0], buffersize=2, ordered=False)
    assert [next(results) for _ in range(5)] == [None] * 5
    results.close()
    until(lambda: engine.native_engine.stats()["running"] == 0)
    assert list(results) == []


def test_an_exception_ends_the_iteration_in_any_order(engine: Engine) -> None:
    def invert(n: int) -> float:
        return 1 / n

    results = engine.map(invert, [1, 2, 0, 4], ordered=False, buffersize=1)
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_the_results_before_an_exception_of_the_iterable_come_first(engine: Engine) -> None:
    def items() -> Iterator[bytes]:
        yield from [b"a", b"b", b"c"]
        raise LookupError("no more")

    def take(results: Any) -> list[int]:
        got = []
        with pytest.raises(LookupError, match="no more"):
            for result in results:
                got.append(result)
        return got

    expected = sorted(map(zlib.crc32, [b"a", b"b", b"c"]))
    for function in (zlib.crc32, "hl.crc32"):
        assert sorted(take(engine.map(function, items(), ordered=False))) == expected


@pytest.mark.parametrize("ordered", [True, False])
def test_exceptions_as_results(engine: Engine, ordered: bool) -> None:
    good = zlib.compress(b"good")
    data = [good, b"bad", good, b"bad", good]
    for function in (zlib.decompress, "hl.zlib.decompress"):
        for chunksize in (1, 2, 10):
            results = engine.map(
                function, data, chunksize=chunksize, ordered=ordered, return_exceptions=True
            )
            seen = [isinstance(result, Exception) for result in results]
            expected = [False, True, False, True, False]
            assert seen == expected if ordered else sorted(seen) == sorted(expected)

    def items() -> Iterator[bytes]:
        yield good
        raise LookupError

    results = engine.map("hl.zlib.decompress", items(), ordered=ordered, return_exceptions=True)
    assert next(results) == b"good"
    with pytest.raises(LookupError):
        next(results)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_timeout_ends_the_iteration(engine: Engine, ordered: bool) -> None:
    def mapped(timeout: float) -> Any:
        return engine.map("hl.sleep", [LONG] * 10, timeout=timeout, ordered=ordered)

    def nothing_runs() -> None:
        stats = engine.native_engine.stats
        until(lambda: (stats()["running"], stats()["queued"]) == (0, 0))

    for timeout in (0.05, 0, -1):
        results = mapped(timeout)
        with pytest.raises(TimeoutError):
            next(results)
        assert list(results) == []
        nothing_runs()
        for run in (asyncio.run, hybridloop.run):
            with pytest.raises(TimeoutError):
                run(collect(mapped(timeout)))
            nothing_runs()


@pytest.mark.parametrize("ordered", [True, False])
def test_a_timeout_of_functions(engine: Engine, ordered: bool) -> None:
    inside: set[int] = set()

    async def wait(n: int) -> None:
        inside.add(n)
        try:
            await asyncio.Event().wait()
        finally:
            inside.remove(n)

    results = engine.map(wait, range(2), timeout=0.05, ordered=ordered)
    with pytest.raises(TimeoutError):
        next(results)
    until(lambda: not inside)
    results = engine.map(zlib.crc32, [b"a", b"b"], chunksize=2, timeout=1000, ordered=ordered)
    assert sorted(results) == sorted([zlib.crc32(b"a"), zlib.crc32(b"b")])


def test_the_timeout_does_not_limit_results_that_are_there(engine: Engine) -> None:
    results = engine.map(zlib.crc32, [b"a", b"b"], chunksize=2, timeout=1000)
    assert next(results) == zlib.crc32(b"a")
    results._deadline = 0.0
    assert next(results) == zlib.crc32(b"b")
    assert list(results) == []


def test_priority(engine: Engine) -> None:
    with Engine(gil_threads=1, native_threads=1) as single:
        blocking = single.run_native("hl.sleep", LONG)
        until(blocking.running)
        low = single.map("hl.crc32", [b"low"], priority=-1)
        high = single.map("hl.crc32", [b"high"], priority=5)
        ended: list[str] = []
        both = threading.Semaphore(0)
        for name, results in (("low", low), ("high", high)):
            (chunk,) = results._chunks

            def callback(_: object, name: str = name) -> None:
                ended.append(name)
                both.release()

            chunk.when_done(callback)
        blocking.cancel()
        assert both.acquire(timeout=100)
        assert both.acquire(timeout=100)
        assert ended == ["high", "low"]
    with pytest.raises(ValueError, match="only kernels have a priority"):
        engine.map(zlib.crc32, [b"x"], priority=1)


def test_wrong_options(engine: Engine) -> None:
    with pytest.raises(TypeError):
        engine.map("hl.crc32", [b"x"], timeout="5")  # type: ignore[arg-type]
    with pytest.raises(OverflowError, match="priority"):
        next(engine.map("hl.crc32", [b"x"], priority=1 << 40))


def test_cancelling_a_task_that_iterates_in_any_order(engine: Engine) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(collect(engine.map("hl.sleep", [LONG] * 10, ordered=False)))
        while engine.native_engine.stats()["running"] < 2:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for run in (asyncio.run, hybridloop.run):
        run(main())
        until(lambda: engine.native_engine.stats()["running"] == 0)
