"""`async for` over batches and jobs: results as they come, and cancelling the task."""

import asyncio
import gc
import weakref
import zlib

import pytest

from hybridloop import run_native_many
from hybridloop._core import NativeEngine

from .support import LIMIT, LOOPS, run, until

pytestmark = pytest.mark.improves_on_asyncio

# A kernel that runs until it is cancelled.
LONG = 10 * LIMIT


async def collect(results):
    return [result async for result in results]


@pytest.mark.parametrize("loop", LOOPS)
def test_each_result_of_a_batch_comes_once(engine, loop):
    async def main():
        calls = [(b"%d" % i,) for i in range(3000)]
        expected = [zlib.crc32(data) for (data,) in calls]
        batch = engine.run_native_many("hl.crc32", calls)
        assert sorted(await collect(batch)) == sorted(expected)
        assert await batch == expected
        # Also when they have ended before.
        assert sorted(await collect(batch)) == sorted(expected)
        assert sorted(await collect(batch.as_completed())) == list(enumerate(expected))
        assert await collect(engine.run_native_many("hl.noop", [])) == []
        assert await collect(run_native_many("hl.noop", [()] * 3)) == [None] * 3

    run(main(), LOOPS[loop])


@pytest.mark.parametrize("loop", LOOPS)
def test_results_come_as_the_calls_end(engine, loop):
    async def main():
        batch = engine.run_native_many("hl.sleep", [(LONG,), (0.0,), (0.0,)])
        results = batch.as_completed()
        first = [await anext(results), await anext(results)]
        assert sorted(first) == [(1, None), (2, None)]
        assert not batch.done()
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await anext(results)
        with pytest.raises(StopAsyncIteration):
            await anext(results)

    run(main(), LOOPS[loop])


def test_several_iterators_get_all_results(engine):
    async def main():
        batch = engine.run_native_many("hl.crc32", [(b"%d" % i,) for i in range(100)])

        def other_loop(factory):
            return run(collect(batch.as_completed()), factory)

        threads = [asyncio.to_thread(other_loop, factory) for factory in LOOPS.values()]
        tasks = [collect(batch.as_completed()) for _ in range(3)]
        all_results = await asyncio.gather(*threads, *tasks)
        assert [sorted(results) for results in all_results] == [list(enumerate(await batch))] * 6

    run(main())


def test_errors_of_calls(engine):
    good = zlib.compress(b"x")
    calls = [(good,), (b"bad",), (good,)]

    async def main():
        batch = engine.run_native_many("hl.zlib.decompress", calls)
        results, got = aiter(batch), []
        while len(got) < 3:
            try:
                got.append(bytes(await anext(results)))
            except ValueError as error:
                assert error.__notes__ == ["call 1 of the batch"]
                got.append(b"error")
        with pytest.raises(StopAsyncIteration):
            await anext(results)
        assert sorted(got) == [b"error", b"x", b"x"]
        batch = engine.run_native_many("hl.zlib.decompress", calls, return_exceptions=True)
        results = dict(await collect(batch.as_completed()))
        assert isinstance(results[1], ValueError)
        assert results[0] == results[2] == b"x"

    run(main())


def test_the_exception_of_an_iterated_batch_counts_as_retrieved(engine):
    async def main():
        reported = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        batch = loop.run_native_many("hl.zlib.decompress", [(b"bad",)], return_exceptions=False)
        with pytest.raises(ValueError):
            await collect(batch)
        await until(batch.done)
        gone = weakref.ref(batch)
        del batch
        gc.collect()
        assert gone() is None
        assert reported == []

    run(main())


def cancelled_while_iterating(engine, make):
    async def main():
        work = make()
        task = asyncio.ensure_future(collect(work))
        await until(lambda: engine.stats()["running"] > 0)
        # The task has begun to wait.
        await asyncio.sleep(0)
        assert task.cancel("reason")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        # The kernel has returned by then.
        await until(work.done)
        assert work.cancelled()
        await until(lambda: engine.stats()["running"] == 0)

    return main()


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelling_a_task_that_iterates_a_job_cancels_the_job(engine, loop):
    run(cancelled_while_iterating(engine, lambda: engine.run_native("hl.sleep", LONG)), LOOPS[loop])


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelling_a_task_that_iterates_a_batch_cancels_the_batch(engine, loop):
    def batch():
        return engine.run_native_many("hl.sleep", [(LONG,)] * 5)

    run(cancelled_while_iterating(engine, batch), LOOPS[loop])


def test_the_items_that_are_left_do_not_delay_the_cancellation(engine, job_kernels):
    async def main():
        job = engine.run_native("jobs.emit_waits", 1 << 60)
        got = 0

        async def take():
            nonlocal got
            async for _ in job:
                got += 1

        task = asyncio.ensure_future(take())
        await until(lambda: got)
        before = got
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert got == before
        await until(job.done)
        assert job.cancelled()

    run(main())


def test_a_timeout_of_an_iteration(engine):
    async def main():
        for work in (
            engine.run_native("hl.sleep", LONG),
            engine.run_native_many("hl.sleep", [(LONG,)] * 3),
            engine.run_native_many("hl.sleep", [(LONG,)] * 3, return_exceptions=True),
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await collect(work)
            await until(work.done)

    run(main())


def test_a_task_that_is_cancelled_at_once(engine):
    async def main():
        job = engine.run_native("hl.sleep", LONG)
        task = asyncio.ensure_future(collect(job))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # It has not begun to iterate.
        assert not job.done()
        job.cancel()

    run(main())


def test_showing_progress_is_not_iterating(engine, job_kernels):
    async def main():
        job = engine.run_native("jobs.increment", bytearray(b"a"))
        task = asyncio.ensure_future(collect(job.progress()))
        await until(lambda: engine.stats()["running"] == 1)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        other = NativeEngine(native_threads=1)
        await other.run_native("jobs.set_gate", 1)
        assert await job is None
        assert other.close(LIMIT) == []

    run(main())


def test_a_detached_batch_ends_at_once(engine, job_kernels):
    async def main():
        data = [bytearray(b"a") for _ in range(3)]
        calls = [(one,) for one in data]
        batch = engine.run_native_many("jobs.stubborn", calls, cancel_policy="detach")
        task = asyncio.ensure_future(collect(batch))
        await until(lambda: engine.stats()["running"] > 0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert batch.cancelled()
        other = NativeEngine(native_threads=1)
        await other.run_native("jobs.set_gate", 1)
        assert other.close(LIMIT) == []

    run(main())


def test_a_batch_outlives_the_loop_of_its_first_iterator(engine):
    async def begin(batch):
        task = asyncio.ensure_future(anext(aiter(batch)))
        assert await task is None

    batch = engine.run_native_many("hl.sleep", [(0.0,), (LONG,)])
    run(begin(batch))
    batch.cancel()

    async def rest():
        results = aiter(batch)
        assert await anext(results) is None
        with pytest.raises(asyncio.CancelledError):
            await anext(results)

    run(rest())
