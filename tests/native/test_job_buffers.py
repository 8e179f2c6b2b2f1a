"""Memory of jobs: what kernels write, read and keep, and for how long."""

import array
import asyncio
import gc
import sys
import time
import weakref

import pytest

from hybridloop import BufferInUseError, NativeKernelError
from hybridloop._core import NativeEngine

from .support import LIMIT, open_gate, run, until

np = pytest.importorskip("numpy")

pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.usefixtures("job_kernels")]


def test_out_is_filled_in_place(engine):
    async def main():
        await open_gate()
        for data in (
            bytearray(b"abc"),
            array.array("B", b"abc"),
            np.frombuffer(bytearray(b"abc"), np.uint8),
        ):
            await engine.run_native("jobs.increment", out=data)
            assert bytes(data) == b"bcd"
            await engine.run_native("jobs.increment", data)
            assert bytes(data) == b"cde"
        whole = np.zeros((4, 4), np.uint8)
        await engine.run_native("jobs.increment", out=whole[1:2])
        assert whole.sum() == 4
        assert (whole[1] == 1).all()

    run(main())


def test_what_cannot_be_written_is_refused(engine):
    async def main():
        before = await engine.run_native("jobs.count")
        frozen = np.zeros(4, np.uint8)
        frozen.flags.writeable = False
        for error, match, out in [
            (ValueError, "'data'.*read-only", b"abc"),
            (ValueError, "'data'.*read-only", memoryview(b"abc")),
            (ValueError, "'data'.*read-only", frozen),
            (ValueError, "'data'.*contiguous", np.zeros((4, 4), np.uint8)[:, 1]),
            (ValueError, "'data'.*contiguous", memoryview(bytearray(8))[::2]),
            (TypeError, "'data'", 1),
            (TypeError, "'data'", "abc"),
        ]:
            for args, keywords in (((out,), {}), ((), {"out": out})):
                with pytest.raises(error, match=match):
                    engine.run_native("jobs.increment", *args, **keywords)
        with pytest.raises(TypeError, match="'beats': expected elements of type i64"):
            engine.run_native("jobs.heartbeat", 1, out=np.zeros(3))
        with pytest.raises(TypeError):
            engine.run_native("jobs.increment")
        assert await engine.run_native("jobs.count") == before + 1

    run(main())


def test_a_buffer_that_is_written_belongs_to_one_job(engine):
    async def main():
        data = bytearray(10)
        job = engine.run_native("jobs.increment", out=data)
        await until(job.running)
        references = sys.getrefcount(data)
        for call in (
            lambda: engine.run_native("jobs.increment", out=data),
            lambda: engine.run_native("jobs.increment", memoryview(data)[3:5]),
            lambda: engine.run_native("hl.crc32", data),
            lambda: engine.run_native_many("hl.crc32", [(b"",), (data,)]),
        ):
            with pytest.raises(BufferInUseError):
                call()
        other = bytearray(2)
        with pytest.raises(BufferInUseError):
            engine.run_native_many("jobs.increment", [(other,), (other,)])
        other.append(1)
        assert sys.getrefcount(data) == references
        with pytest.raises(BufferError):
            data.append(1)
        await open_gate()
        await job
        data.append(1)
        await engine.run_native("jobs.increment", out=data)
        assert data == b"\2" * 11 or data[:10] == b"\2" * 10

    run(main())


def test_read_only_arguments_are_shared(engine):
    async def main():
        data = bytearray(b"x")
        first = engine.run_native("jobs.stubborn", data)
        assert await engine.run_native("hl.crc32", data) == await engine.run_native(
            "hl.crc32", b"x"
        )
        with pytest.raises(BufferError):
            data.clear()
        await open_gate()
        assert await first == ord("x")
        data.clear()

    run(main())


def test_memory_is_counted_until_the_last_view_goes():
    engine = NativeEngine(native_threads=1, memory=1 << 20)

    async def main():
        first = await engine.run_native("jobs.memory", 1 << 19)
        assert engine.stats()["memory"] == 1 << 19
        view = memoryview(first)[5:]
        with pytest.raises(MemoryError, match=r"jobs\.memory"):
            await engine.run_native("jobs.memory", (1 << 19) + 1)
        del first
        gc.collect()
        assert engine.stats()["memory"] == 1 << 19
        assert bytes(view[:3]) == b"mmm"
        array = np.frombuffer(view, np.uint8)
        assert not array.flags.writeable
        del view, array
        await until(lambda: gc.collect() >= 0 and engine.stats()["memory"] == 0)

    run(main())
    assert engine.close(LIMIT) == []


def test_nothing_is_copied_on_the_way_in_and_out(engine):
    async def main():
        first = await engine.run_native("jobs.memory", 1 << 20)
        again = await engine.run_native("jobs.same", first)
        address = np.frombuffer(first, np.uint8).ctypes.data
        assert np.frombuffer(again, np.uint8).ctypes.data == address
        assert engine.stats()["memory"] == 1 << 20
        part = await engine.run_native("jobs.same", again)
        del first, again
        assert np.frombuffer(part, np.uint8).ctypes.data == address
        with pytest.raises(NativeKernelError, match="not the host's"):
            await engine.run_native("jobs.same", b"Python's")

    run(main())


def test_a_thread_that_has_waited_holds_nothing(engine):
    job = engine.run_native("jobs.memory", 1 << 20)
    job.result(LIMIT)
    gone = weakref.ref(job)
    del job
    gc.collect()
    assert gone() is None
    deadline = time.monotonic() + LIMIT
    while engine.stats()["memory"]:
        assert time.monotonic() < deadline
        engine.run_native("hl.noop").result(LIMIT)


def test_a_kernel_that_ignores_cancelling_keeps_its_buffers(engine):
    async def main():
        data = bytearray(b"x")
        job = engine.run_native("jobs.stubborn", data)
        await until(job.running)
        assert job.cancel()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(job), 0.05)
        assert not job.done(), "not before the kernel has returned"
        with pytest.raises(BufferError):
            data.clear()
        await open_gate()
        with pytest.raises(asyncio.CancelledError):
            await job
        data.clear()

    run(main())


@pytest.mark.parametrize("ends", ["cancel", "timeout"])
def test_detached_a_job_ends_at_once_and_its_buffers_stay(engine, ends):
    async def main():
        data = bytearray(b"x")
        timeout = 0.02 if ends == "timeout" else None
        while True:
            job = engine.run_native("jobs.stubborn", data, timeout=timeout, cancel_policy="detach")
            task = asyncio.create_task(asyncio.wait_for(job, LIMIT))
            await until(lambda job=job: job.running() or job.done())
            if job.running():
                break
            # It was too late to begin.
            with pytest.raises(TimeoutError):
                await task
            timeout *= 2
        if ends == "cancel":
            assert job.cancel()
            assert job.done()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            with pytest.raises(TimeoutError, match=r"jobs\.stubborn"):
                await task
        with pytest.raises(BufferError):
            data.clear()
        assert job.running()
        await open_gate()
        await until(lambda: not job.running())

        def is_free():
            try:
                data.append(1)
            except BufferError:
                return False
            return True

        await until(is_free)
        assert job.cancelled() == (ends == "cancel")

    run(main())
