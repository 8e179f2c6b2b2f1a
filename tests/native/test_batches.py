"""`run_native_many()`: many calls, one submission, one wake-up."""

import asyncio
import zlib

import pytest

import hybridloop
from hybridloop._core import NativeEngine

from .support import LIMIT, LOOPS, open_gate_without_a_loop, run, until

pytestmark = pytest.mark.improves_on_asyncio


@pytest.mark.parametrize("loop", LOOPS)
def test_results_come_in_the_order_of_the_calls(engine, loop):
    async def main():
        calls = [(b"%d" % i,) for i in range(1000)]
        batch = engine.run_native_many("hl.crc32", calls)
        assert isinstance(batch, hybridloop.NativeBatch)
        assert len(batch) == 1000
        expected = [zlib.crc32(data) for (data,) in calls]
        assert await batch == expected
        assert batch.completed == 1000
        assert await batch is await batch
        assert await engine.run_native_many("hl.crc32", iter([[b"x", 5]])) == [zlib.crc32(b"x", 5)]
        assert await engine.run_native_many("hl.noop", []) == []

    run(main(), LOOPS[loop])


def test_the_first_error_is_raised_or_all_are_given(engine):
    async def main():
        whole = await engine.run_native("hl.zstd.compress", b"x")
        calls = [(whole,), (b"bad",), (whole,), (b"worse",)]
        batch = engine.run_native_many("hl.zstd.decompress", calls)
        with pytest.raises(ValueError, match="zstd"):
            await batch
        assert isinstance(batch.exception(), ValueError)
        results = await engine.run_native_many("hl.zstd.decompress", calls, return_exceptions=True)
        assert [isinstance(result, ValueError) for result in results] == [False, True, False, True]
        assert results[0] == results[2] == b"x"

    run(main())


def test_a_batch_is_cancelled_as_a_whole():
    engine = NativeEngine(native_threads=1)

    async def main():
        batch = engine.run_native_many("hl.sleep", [(LIMIT,)] * 10)
        await until(lambda: engine.stats()["running"] == 1)
        assert batch.completed == 0
        assert batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        assert batch.cancelled()
        batch = engine.run_native_many("hl.sleep", [(LIMIT,)] * 2, return_exceptions=True)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        assert batch.cancelled()

    run(main())
    assert engine.close(LIMIT) == []
    assert engine.stats()["queued"] == 0


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_a_task_that_waits_for_a_batch_keeps_its_cancellation(return_exceptions):
    engine = NativeEngine(native_threads=1)

    async def gathered(calls):
        # asyncio's own, for comparison.
        sleeps = (asyncio.sleep(*call) for call in calls)
        return await asyncio.gather(*sleeps, return_exceptions=return_exceptions)

    async def batched(calls):
        return await engine.run_native_many("hl.sleep", calls, return_exceptions=return_exceptions)

    async def main():
        for wait in gathered, batched:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await wait([(LIMIT,)] * 2)
            # Some of the calls are done.
            task = asyncio.create_task(wait([(0.0,), (LIMIT,)]))
            await asyncio.sleep(0.01)
            if wait is batched:
                await until(lambda: engine.stats()["done"] == 1)
            task.cancel("enough")
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

    run(main())
    assert engine.close(LIMIT) == []


def test_the_timeout_is_that_of_all():
    engine = NativeEngine(native_threads=1)

    async def main():
        batch = engine.run_native_many("hl.sleep", [(LIMIT,)] * 5, timeout=0.05)
        with pytest.raises(TimeoutError):
            await batch
        batch = engine.run_native_many(
            "hl.sleep", [(LIMIT,)] * 5, timeout=0.05, return_exceptions=True
        )
        assert [type(result) for result in await batch] == [TimeoutError] * 5

    run(main())
    assert engine.close(LIMIT) == []


@pytest.mark.usefixtures("job_kernels")
def test_a_thread_waits_for_a_batch(engine):
    batch = engine.run_native_many("hl.crc32", [(b"x",)] * 3)
    assert batch.result(LIMIT) == [zlib.crc32(b"x")] * 3
    batch = engine.run_native_many("jobs.stubborn", [(b"x",)] * 2)
    with pytest.raises(TimeoutError):
        batch.result(0.001)
    open_gate_without_a_loop()
    assert batch.result(LIMIT) == [ord("x")] * 2


def test_several_loops_await_one_batch(engine):
    async def main():
        batch = engine.run_native_many("hl.sleep", [(0.05,)] * 2)

        def wait(factory):
            async def main():
                return await batch

            return run(main(), factory)

        threads = [asyncio.to_thread(wait, factory) for factory in LOOPS.values()]
        assert await asyncio.gather(batch, *threads) == [[None, None]] * 4

    run(main())


def test_buffers_of_a_batch_are_let_go(engine):
    async def main():
        data = [bytearray(b"x") for _ in range(5)]
        batch = engine.run_native_many("hl.crc32", [(one,) for one in data])
        await batch
        for one in data:
            one.append(1)

    run(main())
