"""The native half of an engine: its workers and its bus, shared by the loops of its threads."""

from __future__ import annotations

import array
import asyncio
import ctypes
import gc
import hashlib
import os
import select
import struct
import time
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

import hybridloop
from hybridloop import (
    BusFullError,
    BusKeyExistsError,
    Engine,
    EngineClosedError,
    NativeQueueFullError,
)
from tests.support.waiting import until

pytestmark = pytest.mark.filterwarnings("error")

MIB = 1 << 20
# More than it takes to start a worker, less than anybody waits.
LONG = 60.0


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(gil_threads=2, native_threads=2) as engine:
        yield engine


def running(engine: Engine) -> int:
    count: int = engine.native_engine.stats().get("running", 0)
    return count


# The constructor


def test_sizes_and_policies() -> None:
    with Engine(
        native_threads=3, native_queue="lifo", bus_capacity="2MiB", bus_policy="evict"
    ) as engine:
        assert engine.native_engine.stats()["threads"] == 3
        assert engine.bus.stats()["capacity"] == 2 * MIB
        for key in "abc":
            engine.bus.push(key, bytes(MIB - 4096))
        assert "c" in engine.bus and "a" not in engine.bus
    with Engine(bus_capacity=MIB) as engine:
        with pytest.raises(BusFullError):
            engine.bus.push("key", bytes(MIB + 1))
    for name, value in (
        ("native_threads", 0),
        ("native_queue", "random"),
        ("bus_capacity", "much"),
        ("bus_policy", "forget"),
        ("max_native_queue", 0),
        ("memory", "-1MiB"),
    ):
        with pytest.raises(ValueError, match="must be|not a size"):
            Engine(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Engine(native_threads=1.5)  # type: ignore[arg-type]


def test_a_native_queue_is_bounded() -> None:
    with Engine(native_threads=1, max_native_queue=2) as engine:
        first = engine.run_native("hl.sleep", LONG)
        # A job that begins is counted as queued for a moment yet.
        until(lambda: (native_of(engine).busy, native_of(engine).queued) == (1, 0))
        waiting = [engine.run_native("hl.noop") for _ in range(2)]
        with pytest.raises(NativeQueueFullError):
            engine.run_native("hl.noop")
        first.cancel()
        assert [job.result(60) for job in waiting] == [None, None]


def test_priorities() -> None:
    order: list[int] = []

    async def main(engine: Engine) -> None:
        first = engine.run_native("hl.sleep", LONG)
        while running(engine) != 1:
            await asyncio.sleep(0.001)
        jobs = []
        for priority in (0, 2, 1, 2):
            jobs.append(engine.run_native("hl.noop", priority=priority))
            jobs[-1].add_done_callback(lambda _, priority=priority: order.append(priority))
        first.cancel()
        await asyncio.gather(*jobs)

    with Engine(native_threads=1, native_queue="priority") as engine:
        hybridloop.run(main(engine))
    assert order == [2, 2, 1, 0]


# Who may ask


def test_run_native_from_everywhere(engine: Engine) -> None:
    data = b"some bytes"
    expected = zlib.crc32(data)
    assert engine.run_native("hl.crc32", data).result(60) == expected
    assert engine.run_native(hybridloop.kernels["hl.crc32"], data).result(60) == expected

    async def main() -> Any:
        calls = [(data,), (data, 7)]
        many = await engine.run_native_many("hl.crc32", calls)
        assert many == [expected, zlib.crc32(data, 7)]
        return await engine.run_native("hl.crc32", data)

    assert asyncio.run(main()) == hybridloop.run(main()) == expected
    assert engine.spawn(main(), thread=1).result(60) == expected


def test_the_loops_of_its_threads_share_its_workers_and_bus(engine: Engine) -> None:
    async def push(key: str) -> bool:
        loop: Any = asyncio.get_running_loop()
        await loop.run_native("hl.sha256", b"x", key=key)
        return loop.native_engine is engine.native_engine

    async def read(key: str) -> bytes:
        loop: Any = asyncio.get_running_loop()
        return bytes(await loop.bus.wait(key, timeout=60))

    reading = engine.spawn(read("digest"), thread=1)
    assert engine.spawn(push("digest"), thread=0).result(60)
    assert reading.result(60) == hashlib.sha256(b"x").digest() == bytes(engine.bus.get("digest"))
    native = engine.stats().native
    assert native is not None and native.done == 1
    with Engine() as other:
        assert "digest" not in other.bus


def test_the_seeds_names_of_the_bus(engine: Engine) -> None:
    engine.memory_bus_push("key", b"hello", 4)
    assert bytes(engine.memory_bus_pop("key")) == b"hell" == bytes(engine.memory_bus_pop("key"))
    with pytest.raises(BusKeyExistsError):
        engine.memory_bus_push("key", b"other")
    assert bytes(engine.bus.get("key")) == b"hell"


# Without the interpreter


def test_kernels_run_while_python_holds_the_interpreter(engine: Engine) -> None:
    libc = ctypes.PyDLL(None)  # its functions are called without releasing the interpreter
    tell = hybridloop.register_kernel(
        "test.tell", (None, "write"), "isize(i32 fd, const u8* data, usize size)", replace=True
    )
    reader, writer = os.pipe()
    try:
        received, count = ctypes.create_string_buffer(4), 0
        # Until these are done, no other begins.
        threads = engine.native_engine.stats()["threads"]
        first = engine.run_native_many("hl.spin", [(0.05,)] * threads)
        jobs = engine.run_native_many(tell, [(writer, b".", 1)] * 4)
        while count < 4:
            assert libc.poll(struct.pack("ihh", reader, select.POLLIN, 0), 1, 20_000) == 1
            count += libc.read(reader, received, 4)
        assert jobs.result(60) == [1] * 4
        assert first.result(60) == [None] * threads
    finally:
        os.close(reader)
        os.close(writer)


# Statistics


def test_stats() -> None:
    with Engine(native_threads=1, bus_capacity=MIB) as engine:
        engine.run_native_many("hl.noop", [()] * 3).result(60)
        with pytest.raises(ValueError):
            engine.run_native("hl.zlib.decompress", b"no zlib at all").result(60)
        first = engine.run_native("hl.sleep", LONG)
        until(lambda: running(engine) == 1)
        waiting = engine.run_native("hl.noop")
        engine.bus.push("key", b"four")
        bytes(engine.bus.get("key"))
        stats = engine.stats()
        native, bus = stats.native, stats.bus
        assert native is not None and bus is not None
        assert (native.workers, native.busy) == (1, 1)
        until(lambda: native_of(engine).queued == 1)
        assert (native.done, native.failed, native.cancelled) == (3, 1, 0)
        assert (bus.keys, bus.bytes, bus.capacity, bus.writes, bus.reads) == (1, 4, MIB, 1, 1)
        assert native.memory >= 4
        assert waiting.cancel() and first.cancel()
        until(lambda: native_of(engine).cancelled == 2)
        until(lambda: (native_of(engine).busy, native_of(engine).queued) == (0, 0))


def native_of(engine: Engine) -> hybridloop.NativeStats:
    native = engine.stats().native
    assert native is not None
    return native


# Maps


@pytest.mark.parametrize("chunksize", [1, 3, 50])
def test_map_with_kernels(engine: Engine, chunksize: int) -> None:
    data = [str(n).encode() for n in range(100)]
    expected = [zlib.crc32(it) for it in data]
    assert list(engine.map("hl.crc32", data, chunksize=chunksize)) == expected
    kernel = hybridloop.kernels["hl.crc32"]
    several = engine.map(kernel, data, range(100), chunksize=chunksize, buffersize=7)
    assert list(several) == [zlib.crc32(it, n) for n, it in enumerate(data)]

    async def collect() -> list[Any]:
        results: Any = engine.map("hl.crc32", data, chunksize=chunksize)
        return [result async for result in results]

    assert asyncio.run(collect()) == hybridloop.run(collect()) == expected
    assert engine.spawn(collect()).result(60) == expected


@pytest.mark.parametrize("chunksize", [1, 4])
def test_errors_of_kernels_come_in_their_place(engine: Engine, chunksize: int) -> None:
    good = zlib.compress(b"good")
    data = [good] * 5 + [b"no zlib at all"] + [good] * 5
    results = engine.map("hl.zlib.decompress", data, chunksize=chunksize)
    assert [bytes(next(results)) for _ in range(5)] == [b"good"] * 5
    with pytest.raises(ValueError):
        next(results)
    assert list(results) == []
    with pytest.raises(TypeError):
        list(engine.map("hl.zlib.decompress", [good, "text" if chunksize else good, 3.5]))


def test_a_map_that_is_given_up_cancels_its_jobs(engine: Engine) -> None:
    results = engine.map("hl.sleep", [LONG] * 10)
    until(lambda: running(engine) == 2)
    results.close()
    until(lambda: running(engine) == 0 and engine.native_engine.stats()["queued"] == 0)


def test_map_waits_where_the_native_queue_is_full() -> None:
    with Engine(native_threads=1, max_native_queue=2) as engine:
        assert list(engine.map("hl.noop", *[[]])) == []
        results = engine.map("hl.crc32", [b"x"] * 200, buffersize=50)
        assert list(results) == [zlib.crc32(b"x")] * 200


def test_map_reduce_with_kernels(engine: Engine) -> None:
    data = [str(n).encode() for n in range(50)]
    expected = 0
    for it in data:
        expected ^= zlib.crc32(it)
    reduced = engine.map_reduce("hl.crc32", lambda one, other: one ^ other, data, chunksize=8)
    assert reduced.result(60) == expected
    # A kernel that reduces: it gets the value so far and the next result.
    compared = engine.map_reduce("hl.sha256", "hl.compare_digest", [b"x", b"x"])
    assert compared.result(60) is True


def by_threads(data: list[bytes], count: int) -> float:
    """The seconds that threads take which need the interpreter only to start."""
    with ThreadPoolExecutor(count) as executor:
        list(executor.map(len, data))
        begin = time.perf_counter()
        list(executor.map(lambda it: hashlib.sha256(it).digest(), data))
        return time.perf_counter() - begin


def by_engine(data: list[bytes], count: int) -> float:
    with Engine(native_threads=count) as engine:
        list(engine.map("hl.noop", *[[]]))
        engine.run_native("hl.noop").result(60)
        begin = time.perf_counter()
        list(engine.map("hl.sha256", data))
        return time.perf_counter() - begin


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors")
def test_a_map_over_two_workers_takes_half_the_time() -> None:
    """At most 1.3 of it; what the machine does not give to two plain threads is not counted."""
    data = [os.urandom(MIB) * 8 for _ in range(12)]
    seen = []
    for _ in range(8):
        slowdown = max(1.0, by_threads(data, 2) / (by_threads(data, 1) / 2))
        ratio = by_engine(data, 2) / (by_engine(data, 1) / 2)
        if ratio <= 1.3 * slowdown:
            return
        seen.append((round(ratio, 2), round(slowdown, 2)))
    raise AssertionError(f"ratios, and those of plain threads: {seen}")


# The end


def test_close_waits_for_jobs() -> None:
    engine = Engine(native_threads=1).start()
    jobs = [engine.run_native("hl.sleep", 0.05) for _ in range(3)]
    assert engine.close() == []
    assert [job.result(60) for job in jobs] == [None] * 3
    with pytest.raises(EngineClosedError):
        engine.run_native("hl.noop")
    with pytest.raises(EngineClosedError):
        engine.run_native_many("hl.noop", [()])
    with pytest.raises(EngineClosedError):
        Engine().run_native("hl.noop")


@pytest.mark.parametrize("arguments", [{"timeout": 4}, {"cancel": True}])
def test_close_cancels_jobs_that_do_not_end_in_time(arguments: Any) -> None:
    async def waits() -> None:
        loop: Any = asyncio.get_running_loop()
        await loop.run_native("hl.sleep", LONG)

    engine = Engine(native_threads=2).start()
    job = engine.run_native("hl.sleep", LONG)
    task = engine.spawn(waits())
    until(lambda: running(engine) == 2)
    queued = engine.run_native("hl.noop")
    begin = time.monotonic()
    assert engine.close(**arguments) == []
    assert time.monotonic() - begin < 30
    for ended in (job, queued, task):
        with pytest.raises((asyncio.CancelledError, hybridloop.NativeClosedError)):
            ended.result(60)


def test_close_names_kernels_that_do_not_return() -> None:
    # It waits, and does not look whether it was cancelled.
    read = ctypes.CDLL(None).read
    kernel = hybridloop.register_kernel(
        "test.engine.read", read, "i64(i32, u8*, usize)", replace=True
    )
    reading, writing = os.pipe()
    try:
        engine = Engine(native_threads=1).start()
        job = engine.run_native(kernel, reading, bytearray(1), 1)
        until(lambda: running(engine) == 1)
        begin = time.monotonic()
        with pytest.warns(ResourceWarning, match="kernel test.engine.read"):
            assert engine.close(timeout=2) == ["kernel test.engine.read"]
        assert time.monotonic() - begin < 30
        os.write(writing, b"x")
        with suppress(asyncio.CancelledError, hybridloop.NativeClosedError):
            job.result(60)
    finally:
        os.close(reading)
        os.close(writing)


def test_an_engine_that_is_dropped_ends_its_workers() -> None:
    def workers() -> int:
        return len(os.listdir("/proc/self/task"))

    before = workers()
    engine = Engine(native_threads=4).start()
    engine.run_native_many("hl.noop", [()] * 100).result(60)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del engine
        gc.collect()
    # The loops of its threads are freed by the collector, and with them the workers.
    until(lambda: gc.collect() >= 0 and workers() <= before)


def test_in_a_forked_child(engine: Engine) -> None:
    engine.run_native("hl.noop").result(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with pytest.raises(EngineClosedError):
                engine.run_native("hl.noop")
            with pytest.raises(EngineClosedError):
                engine.map("hl.noop", [])
            engine.close()
            with Engine(native_threads=1) as own:
                if own.run_native("hl.crc32", b"x").result(60) == zlib.crc32(b"x"):
                    status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert engine.run_native("hl.crc32", b"x").result(60) == zlib.crc32(b"x")


def test_one_job_may_not_allocate_more_than_its_limit() -> None:
    values = array.array("d", bytes(1 << 20))
    with Engine(job_memory="64KiB") as engine:
        with pytest.raises(MemoryError):
            engine.run_native("hl.sort", values).result(60)
        assert len(engine.run_native("hl.sort", values[:1000]).result(60)) == 1000
