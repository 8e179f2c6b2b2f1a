"""Batches, maps, and values that stay on workers."""

import asyncio
import gc
import itertools
import zlib
from hashlib import sha256

import numpy
import pytest

from hybridloop import NativeQueueFullError
from hybridloop.cluster import KernelLostError

from .support import client_of, connected, engines, until

FOREVER = 1e6
ORDERS = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "any order"])
BLOBS = [bytes([number % 256]) * number for number in range(300)]


async def test_a_batch_has_one_message_a_worker(loop, dask):
    async with connected(dask) as cluster:
        calls = [(blob, 1) for blob in BLOBS]
        expected = [zlib.crc32(blob, 1) for blob in BLOBS]
        before = {name: it["done"] for name, it in (await engines(cluster)).items()}
        assert await cluster.run_native_many("hl.crc32", calls) == expected
        after = {name: it["done"] for name, it in (await engines(cluster)).items()}
        assert [after[name] - before[name] for name in after] == [150, 150]
        assert cluster.stats().done == 2
        assert await cluster.run_native_many("hl.crc32", iter(calls[:1])) == expected[:1]
        assert await cluster.run_native_many("hl.crc32", []) == []


async def test_an_endless_batch_is_refused(loop, dask, monkeypatch):
    monkeypatch.setattr("hybridloop.cluster.cluster._BATCH_LIMIT", 1000)
    async with connected(dask) as cluster:
        taken = itertools.count()
        with pytest.raises(NativeQueueFullError, match="a batch may have 1000 calls"):
            cluster.run_native_many("hl.noop", (() for _ in taken))
        assert next(taken) == 1001
        assert await cluster.run_native_many("hl.noop", [()] * 1000) == [None] * 1000


async def test_the_first_error_of_a_batch_is_raised(loop, dask):
    good = [(zlib.compress(b"x"),)] * 3
    async with connected(dask) as cluster:
        calls = [*good, (b"bad",), *good, (b"worse",)]
        with pytest.raises(ValueError) as caught:
            await cluster.run_native_many("hl.zlib.decompress", calls)
        assert caught.value.__notes__ == ["call 3 of the batch"]
        results = await cluster.run_native_many("hl.zlib.decompress", calls, return_exceptions=True)
        failed = [number for number, it in enumerate(results) if isinstance(it, ValueError)]
        assert failed == [3, 7] and len(results) == len(calls)
        assert results[0] == b"x"


async def test_a_wrong_argument_is_named_by_its_place_in_the_whole_batch(loop, dask):
    async with connected(dask) as cluster:
        for place in (0, 7, 13):
            calls = [(b"x",)] * 14
            calls[place] = ("text",)
            with pytest.raises(TypeError, match=rf"\Acall {place}: hl.crc32\(\): argument 'data'"):
                await cluster.run_native_many("hl.crc32", calls)


async def test_a_batch_has_a_deadline_and_can_be_cancelled(loop, dask):
    async with connected(dask) as cluster:
        results = await cluster.run_native_many(
            "hl.sleep", [(FOREVER,)] * 6, timeout=0.05, return_exceptions=True
        )
        assert [type(it) for it in results] == [TimeoutError] * 6
        job = cluster.run_native_many("hl.sleep", [(FOREVER,)] * 6)
        await until(lambda: cluster.stats().running == 2)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert cluster.stats().running == 0
        assert await cluster.run_native("hl.noop") is None


async def test_map_gives_results_in_order(loop, dask):
    async with connected(dask) as cluster:
        digests = [sha256(blob).digest() for blob in BLOBS]
        for options in ({}, {"chunksize": 7}, {"chunksize": 100, "buffersize": 100}):
            results = [it async for it in cluster.map("hl.sha256", BLOBS, **options)]
            assert results == digests
        pairs = cluster.map("hl.crc32", BLOBS, range(10), chunksize=3)
        assert [it async for it in pairs] == [
            zlib.crc32(blob, start) for blob, start in zip(BLOBS, range(10), strict=False)
        ]
        assert [it async for it in cluster.map("hl.sha256", [])] == []
        assert cluster.stats().running == 0


async def test_map_takes_no_more_than_its_buffer(loop, dask):
    taken = 0

    def blobs():
        nonlocal taken
        for blob in BLOBS:
            taken += 1
            yield blob

    async with connected(dask) as cluster:
        results = cluster.map("hl.sha256", blobs(), buffersize=10, chunksize=5)
        for number in range(1, 50):
            await anext(results)
            assert taken <= number + 10
        results.close()
        with pytest.raises(StopAsyncIteration):
            await anext(results)


async def test_map_ends_with_the_first_error(loop, dask):
    async with connected(dask) as cluster:
        good = zlib.compress(b"x")
        results = cluster.map("hl.zlib.decompress", [good, good, b"bad", good], chunksize=2)
        assert [await anext(results), await anext(results)] == [b"x", b"x"]
        with pytest.raises(ValueError):
            await anext(results)
        with pytest.raises(StopAsyncIteration):
            await anext(results)
        with pytest.raises(TypeError, match="call 0: hl.crc32: expected"):
            await anext(cluster.map("hl.crc32", [object()]))
        for wrong in ({"chunksize": 0}, {"buffersize": 0}):
            with pytest.raises(ValueError):
                cluster.map("hl.crc32", [b""], **wrong)
        results = cluster.map("hl.crc32", [b""])
        for wrong in (iter, next):
            with pytest.raises(TypeError, match="use 'async for'"):
                wrong(results)
        assert await anext(results) == 0


async def test_map_gives_results_as_they_come(loop, dask):
    async with connected(dask) as cluster:
        digests = sorted(sha256(blob).digest() for blob in BLOBS)
        for chunksize in (1, 7, 1000):
            results = cluster.map("hl.sha256", BLOBS, chunksize=chunksize, ordered=False)
            assert sorted([bytes(it) async for it in results]) == digests
        # The first call occupies a worker, and the other one goes on.
        results = cluster.map("hl.sleep", [FOREVER, 0, 0, 0, 0, 0], buffersize=2, ordered=False)
        assert [await anext(results) for _ in range(5)] == [None] * 5
        results.close()
        await until(lambda: cluster.stats().running == 0)
        assert [it async for it in results] == []


@ORDERS
async def test_a_timeout_ends_a_map(loop, dask, ordered):
    async with connected(dask) as cluster:
        for timeout in (0.05, 0.0):
            results = cluster.map("hl.sleep", [FOREVER] * 10, timeout=timeout, ordered=ordered)
            with pytest.raises(TimeoutError):
                await anext(results)
            assert [it async for it in results] == []
            await until(lambda: cluster.stats().running == 0)
        results = cluster.map("hl.crc32", [b"x"] * 3, timeout=1000, ordered=ordered)
        assert [it async for it in results] == [zlib.crc32(b"x")] * 3
        assert cluster.stats().waiting == cluster.stats().failed == 0


@ORDERS
async def test_exceptions_as_results_of_a_map(loop, dask, ordered):
    good = zlib.compress(b"good")
    data = [good, b"bad", good, b"bad", good]
    async with connected(dask) as cluster:
        for chunksize in (1, 2, 10):
            options = {"chunksize": chunksize, "ordered": ordered, "return_exceptions": True}
            results = [it async for it in cluster.map("hl.zlib.decompress", data, **options)]
            seen = [isinstance(it, ValueError) for it in results]
            expected = [False, True, False, True, False]
            assert seen == expected if ordered else sorted(seen) == sorted(expected)


async def test_chunks_of_higher_priority_are_sent_first(loop, dask):
    async with connected(dask, per_worker=1) as cluster:
        busy = [cluster.run_native("hl.sleep", FOREVER) for _ in range(2)]
        await until(lambda: cluster.stats().running == 2)
        order = []

        async def take(name, priority):
            async for _ in cluster.map("hl.sleep", [0] * 3, buffersize=3, priority=priority):
                order.append(name)

        tasks = []
        for name, priority in (("late", 0), ("first", 5)):
            tasks.append(asyncio.create_task(take(name, priority)))
            await until(lambda: cluster.stats().waiting == 3 * len(tasks))
        busy[0].cancel()
        await asyncio.gather(*tasks)
        assert order == ["first"] * 3 + ["late"] * 3
        busy[1].cancel()
        await asyncio.wait(busy)


async def test_put_keeps_a_value_where_it_is_used(loop, dask, libraries):
    numbers = numpy.arange(100_000.0)
    async with connected(dask, libraries=libraries) as cluster:
        refs = [await cluster.put(numbers + number) for number in range(2)]
        holders = [ref.holders.copy() for ref in refs]
        assert holders[0].isdisjoint(holders[1])
        assert [ref.nbytes for ref in refs] == [numbers.nbytes] * 2
        for ref, where in zip(refs, holders, strict=True):
            before = await engines(cluster)
            for _ in range(4):
                assert await cluster.run_native("hl.sum", ref) == (numbers + refs.index(ref)).sum()
            after = await engines(cluster)
            moved = {name for name in after if after[name]["done"] != before[name]["done"]}
            assert moved == where and ref.holders == where
        # Two values that are not at the same place: one is fetched.
        expected = pytest.approx(float(numbers @ (numbers + 1)))
        assert await cluster.run_native("hl.dot", *refs) == expected
        assert await cluster.run_native("hl.dot", *refs, retries=0) == expected
        assert await cluster.run_native("hl.dot", refs[0], numbers + 1) == expected
        for value in (b"small", "text", 5, None, 0.5):
            ref = await cluster.put(value)
            kind = {bytes: "buf", str: "str", int: "i64", float: "f64"}.get(type(value), "none")
            assert await cluster.run_native("jobs.kind", ref) == kind
        with pytest.raises(TypeError, match="call 0: hl.sum: only run_native"):
            cluster.run_native_many("hl.sum", [(ref,)])
        with pytest.raises(TypeError, match="a channel|got object"):
            await cluster.put(object())


async def stored(dask_worker):
    return len(dask_worker.data)


async def test_a_value_is_deleted_with_its_last_reference(loop, dask):
    async with connected(dask) as cluster:
        client = client_of(cluster)

        async def count():
            return sum((await client.run(stored)).values())

        await until(lambda: is_zero(count))
        numbers = numpy.arange(10_000.0)
        first, second = await cluster.put(numbers), await cluster.put(numbers)
        assert first.holders.isdisjoint(second.holders)
        # One of the values is fetched by the other worker.
        expected = pytest.approx(float(numbers @ numbers))
        assert await cluster.run_native("hl.dot", first, second) == expected
        assert await cluster.run_native("hl.dot", first, second, retries=0) == expected
        job = cluster.run_native("hl.sum", first)
        del first, second
        assert await job == numbers.sum()
        del job
        gc.collect()
        await until(lambda: is_zero(count))


async def is_zero(count):
    return await count() == 0


async def test_a_value_that_was_lost_is_named(loop, dask):
    async with connected(dask) as cluster:
        ref = await cluster.put(bytes(10_000))
        ref.holders.clear()
        with pytest.raises(KernelLostError, match="argument 0 was lost.*The kernel did not run"):
            await cluster.run_native("hl.sha256", ref)
        # Where it is said to be, it is not any more as soon as the workers have heard of that.
        await client_of(cluster).cancel([ref.handle], force=True)

        async def lost():
            ref.holders.update(cluster.workers())
            try:
                return not await cluster.run_native("hl.sha256", ref)
            except KernelLostError as error:
                return str(error)

        assert await until(lost) == "the data of an argument is lost; the kernel did not run"
