"""How jobs end: cancelled, late, closed with engine or loop, failed; and what is left of them."""

import asyncio
import gc
import weakref

import pytest

import hybridloop
from hybridloop import NativeClosedError
from hybridloop._core import NativeEngine

from .support import LIMIT, LOOPS, open_gate, run, until

pytestmark = pytest.mark.improves_on_asyncio


def test_cancelling_what_waits_what_runs_and_what_is_done(single):
    async def main():
        loop = asyncio.get_running_loop()
        loop.native_engine = single
        running = loop.run_native("hl.sleep", LIMIT)
        # One that begins is counted as queued for a moment yet.
        await until(lambda: running.running() and single.stats()["queued"] == 0)
        waiting = loop.run_native("hl.crc32", b"x")
        completed = single.stats()["completed"]
        assert waiting.cancel("because")
        with pytest.raises(asyncio.CancelledError, match="because"):
            await waiting
        assert waiting.cancelled()
        assert single.stats()["completed"] == completed, "it has not run"
        assert single.stats()["queued"] == 0
        assert running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert running.cancelled()
        assert not running.cancel()
        with pytest.raises(asyncio.CancelledError):
            running.result()
        with pytest.raises(asyncio.CancelledError):
            running.exception()
        done = loop.run_native("hl.noop")
        await done
        assert not done.cancel()
        assert not done.cancelled()

    run(main())


@pytest.mark.usefixtures("job_kernels")
@pytest.mark.parametrize("loop", LOOPS)
def test_cancelling_a_task_cancels_the_job_it_awaits(engine, loop):
    async def main():
        job = engine.run_native("hl.sleep", LIMIT)

        async def wait():
            await job

        task, other = asyncio.create_task(wait()), asyncio.create_task(wait())
        await asyncio.sleep(0.001)
        await until(job.running)
        task.cancel()
        for waiting in (task, other):
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert job.cancelled()
        kept = engine.run_native("jobs.stubborn", b"x")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(kept), 0.01)
        await open_gate()
        assert await kept == ord("x")

    run(main(), LOOPS[loop])


def test_a_timeout_ends_what_waits_and_what_runs(single):
    async def main():
        loop = asyncio.get_running_loop()
        loop.native_engine = single
        running = loop.run_native("hl.sleep", 2 * LIMIT)
        await until(running.running)
        waiting = loop.run_native("hl.crc32", b"x", timeout=0.02)
        never = loop.run_native("hl.crc32", b"x", timeout=0)
        completed = single.stats()["completed"]
        with pytest.raises(TimeoutError, match=r"hl\.crc32"):
            await never
        with pytest.raises(TimeoutError, match=r"hl\.crc32"):
            await waiting
        assert single.stats()["completed"] == completed, "neither has run"
        assert not running.done()
        running.cancel()
        was_running, timeout = False, 0.05
        while not was_running:  # it may be too late to begin
            running = loop.run_native("hl.sleep", 2 * LIMIT, timeout=timeout)
            while not running.done():
                was_running |= running.running()
                await asyncio.sleep(0.001)
            with pytest.raises(TimeoutError, match=r"hl\.sleep"):
                await running
            timeout *= 2
        assert isinstance(running.exception(), TimeoutError)
        assert not running.cancelled()
        assert await loop.run_native("hl.noop", timeout=LIMIT) is None
        assert await loop.run_native("hl.noop", timeout=None) is None
        assert await loop.run_native("hl.noop", timeout=float("inf")) is None

    run(main())


def test_the_timer_of_a_timeout_goes_with_the_job(engine):
    async def main():
        loop = asyncio.get_running_loop()
        loop.native_engine = engine
        jobs = [loop.run_native("hl.noop", timeout=1000.0) for _ in range(10)]
        await asyncio.gather(*jobs)
        gone = [weakref.ref(job) for job in jobs]
        del jobs
        await until(lambda: gc.collect() >= 0 and not any(job() for job in gone))

    run(main())


def test_use_after_close_and_what_close_ends():
    engine = NativeEngine(native_threads=1)

    async def main():
        running = engine.run_native("hl.sleep", LIMIT)
        await until(running.running)
        waiting = engine.run_native("hl.noop")
        assert await asyncio.to_thread(engine.close, LIMIT) == []
        with pytest.raises(NativeClosedError, match=r"hl\.noop"):
            await waiting
        with pytest.raises(asyncio.CancelledError):
            await running
        with pytest.raises(NativeClosedError):
            engine.run_native("hl.noop")
        with pytest.raises(NativeClosedError):
            engine.run_native_many("hl.noop", [()])

    run(main())


def test_a_closed_loop_runs_nothing(engine):
    loop = hybridloop.new_event_loop()
    loop.native_engine = engine
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_native("hl.noop")


def test_a_loop_that_closes_leaves_jobs_to_those_who_have_them(engine):
    data = bytearray(b"x")
    jobs = []

    async def main():
        jobs.append(engine.run_native("hl.sleep", 0.1))
        jobs.append(engine.run_native("hl.crc32", data))

    for factory in LOOPS.values():
        run(main(), factory)
    gc.collect()
    for job in jobs:
        job.result(LIMIT)
    del jobs[:]
    data.append(1)


def test_a_kernel_that_fails_raises_and_every_awaiter_gets_it(engine):
    async def main():
        job = engine.run_native("hl.zstd.decompress", b"not compressed")

        async def wait():
            with pytest.raises(ValueError, match="hl.zstd.decompress") as caught:
                await job
            return caught.value

        first, second = await asyncio.gather(wait(), wait())
        assert first is second is job.exception()
        with pytest.raises(ValueError, match="zstd"):
            job.result()

    run(main())


def test_an_error_that_is_not_retrieved_is_reported(engine):
    async def main():
        reported = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        job = engine.run_native("hl.zstd.decompress", b"not compressed")
        done = asyncio.Event()
        job.add_done_callback(lambda _: done.set())
        await done.wait()
        del job
        await asyncio.sleep(0)
        gc.collect()
        assert [(str(context["message"]), type(context["exception"])) for context in reported] == [
            ("exception of native kernel 'hl.zstd.decompress' was never retrieved", ValueError)
        ]

    run(main())


def test_a_job_without_references_runs_and_releases_its_buffers(engine):
    async def main():
        class Data(bytearray):
            pass

        data = Data(b"abc")
        gone = weakref.ref(data)
        engine.run_native("hl.crc32", data)
        del data
        await until(lambda: gc.collect() >= 0 and gone() is None)

    run(main())


def test_a_job_in_a_cycle_is_collected(engine):
    class Owner:
        job = None

    async def main():
        owner = Owner()
        owner.job = engine.run_native("hl.noop")
        await owner.job
        owner.job.add_done_callback(lambda _, owner=owner: None)
        await asyncio.sleep(0)
        pending = engine.run_native("hl.sleep", 0.01)
        pending.add_done_callback(lambda _, owner=owner: None)
        owner.pending = pending
        gone = weakref.ref(owner)
        del owner, pending
        await until(lambda: gc.collect() >= 0 and gone() is None)

    run(main())


def test_an_error_that_is_not_retrieved_is_reported_before_the_collector_clears_it(engine, loop):
    """The job may die as the last of a cycle, when its exception is an empty shell."""
    reported = []
    loop.set_exception_handler(lambda _, context: reported.append(str(context["exception"])))

    class Cycle:
        pass

    async def main():
        for _ in range(3):
            job = engine.run_native("hl.zlib.decompress", b"no zlib at all")
            while not job.done():
                await asyncio.sleep(0.001)
            cycle = Cycle()
            cycle.itself, cycle.job = cycle, job
            del cycle, job
            gc.collect()

    loop.run_until_complete(main())
    assert len(reported) == 3 and all(reported)
