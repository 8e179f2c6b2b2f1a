"""What a kernel emits waits in a queue of limited length: the kernel waits too, or is told."""

import asyncio
import threading

import pytest

import hybridloop
from hybridloop import Engine
from hybridloop._core import NativeEngine

from .support import LIMIT, LOOPS, run, until

pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.usefixtures("job_kernels")]

# How many items a kernel that waits has emitted and nobody has taken, at most.
EMITTED = 1024


async def progress(job, expected):
    """Wait until the kernel has emitted so many items."""
    async for state in job.progress():
        if state[0] >= expected:
            return state[0]


async def emitted(job):
    """The number of items that the kernel has emitted when it waits."""
    return await progress(job, EMITTED)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_kernel_waits_until_its_items_are_taken(engine, loop):
    async def main():
        count = 20_000
        job = engine.run_native("jobs.emit_waits", count)
        assert await emitted(job) == EMITTED
        # It stays there, whatever else happens.
        for _ in range(100):
            await engine.run_native("hl.noop")
        states = []
        task = asyncio.create_task(progress(job, EMITTED + 1))
        await asyncio.sleep(0)
        assert not task.done()
        async for item in job:
            assert item == len(states)
            states.append(item)
        assert len(states) == count
        assert await job is None
        assert await task > EMITTED

    run(main(), LOOPS[loop])


def test_several_jobs_wait_beside_each_other():
    engine = NativeEngine(native_threads=4)

    async def take(count):
        job = engine.run_native("jobs.emit_waits", count)
        return [item async for item in job] == list(range(count))

    async def main():
        assert all(await asyncio.gather(*(take(5000) for _ in range(20))))

    run(main())
    assert engine.close(LIMIT) == []


@pytest.mark.parametrize("policy", ["wait", "detach"])
def test_a_kernel_that_waits_is_cancelled_or_late(engine, policy):
    async def main():
        job = engine.run_native("jobs.emit_waits", 1 << 60, cancel_policy=policy)
        await emitted(job)
        assert job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        job = engine.run_native("jobs.emit_waits", 1 << 60, timeout=0.05, cancel_policy=policy)
        with pytest.raises(TimeoutError):
            await job
        await until(lambda: engine.stats()["running"] == 0)

    run(main())


def test_closing_an_engine_ends_a_kernel_that_waits():
    async def main():
        engine = NativeEngine(native_threads=1)
        job = engine.run_native("jobs.emit_waits", 1 << 60)
        await emitted(job)
        assert engine.close(LIMIT) == []
        with pytest.raises(asyncio.CancelledError):
            await job

    run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_kernel_waits_no_longer_when_its_loop_is_closed(engine, loop):
    async def main():
        job = engine.run_native("jobs.emit_waits", 5000, 7)
        await emitted(job)
        return job

    job = run(main(), LOOPS[loop])
    with pytest.raises(hybridloop.NativeKernelError) as failed:
        job.result(LIMIT)
    assert failed.value.code == 7


def test_without_a_loop_nobody_can_take_the_items(engine):
    job = engine.run_native("jobs.emit_waits", 5000)
    assert job.result(LIMIT) is None
    assert engine.run_native_many("jobs.emit_waits", [(5000,)] * 3).result(LIMIT) == [None] * 3


@pytest.mark.parametrize("limit", [1, 10, 2000])
def test_a_kernel_that_does_not_wait_is_told(limit):
    engine = NativeEngine(native_threads=1, job_items=limit)

    async def main():
        job = engine.run_native("jobs.emit", limit + 1)
        with pytest.raises(MemoryError, match=f"nobody has taken {limit} items"):
            await job
        got = []
        with pytest.raises(MemoryError):
            async for item in job:
                got.append(item)
        assert got == list(range(limit))
        fits = engine.run_native("jobs.emit", limit)
        await fits
        assert [item async for item in fits] == got
        waits = engine.run_native("jobs.emit_waits", 3 * limit)
        assert [item async for item in waits] == list(range(3 * limit))

    run(main())
    assert engine.close(LIMIT) == []


def test_a_kernel_waits_for_memory_that_its_items_hold():
    engine = NativeEngine(native_threads=1, job_memory=1 << 20)

    async def main():
        count = 0
        async for item in engine.run_native("jobs.emit_blocks", 300, 1 << 16):
            assert len(item) == 1 << 16
            assert engine.stats()["memory"] <= 1 << 20
            count += 1
        assert count == 300
        del item
        await until(lambda: engine.stats()["memory"] == 0)

    run(main())
    assert engine.close(LIMIT) == []


def test_sizes(run_script):
    for bad in (0, -1, 1.5, "1"):
        with pytest.raises((TypeError, ValueError, OverflowError), match="job_items"):
            NativeEngine(job_items=bad)
    with Engine(job_items=5) as engine:

        async def main():
            job = engine.native_engine.run_native("jobs.emit", 6)
            with pytest.raises(MemoryError, match="5 items"):
                await job

        engine.spawn(main()).result(LIMIT)
    done = run_script(
        """
        import hybridloop
        hybridloop.configure(job_items=3)
        print("set")
        """
    )
    assert done.stdout == "set\n"


def test_many_threads_take_from_their_own_loops(engine):
    failed = []

    def thread():
        async def main():
            job = engine.run_native("jobs.emit_waits", 4000)
            assert [item async for item in job] == list(range(4000))

        try:
            run(main())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=thread) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(LIMIT)
    assert failed == []
