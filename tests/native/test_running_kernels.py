"""What jobs do with kernels that write, emit, tell, fail and misbehave."""

import array
import asyncio
import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref

import pytest

import hybridloop
from hybridloop import BufferInUseError, NativeKernelError
from hybridloop._core import NativeEngine

from .test_jobs import LIMIT, LOOPS, run, until

np = pytest.importorskip("numpy")

pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.usefixtures("kernels")]


@pytest.fixture(scope="module")
def library(compile_c):
    return compile_c("jobs")


@pytest.fixture
def kernels(library):
    """The kernels of `jobs.c`, with the gate closed; open at the end, so that none stays."""
    hybridloop.load_kernels(library, replace=True)
    engine = NativeEngine(native_threads=1)
    engine.run_native("jobs.set_gate", 0).result(LIMIT)
    yield
    engine.run_native("jobs.set_gate", 1).result(LIMIT)
    engine.close(LIMIT)


async def open_gate():
    engine = NativeEngine(native_threads=1)
    await engine.run_native("jobs.set_gate", 1)
    engine.close(LIMIT)


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


@pytest.mark.parametrize("loop", LOOPS)
def test_items_come_in_order_and_before_the_end(engine, loop):
    async def main():
        job = engine.run_native("jobs.emit", 3000)
        assert [item async for item in job] == list(range(3000))
        assert job.done()
        assert [item async for item in job] == []
        assert await job is None
        empty = engine.run_native("jobs.emit", 0)
        assert [item async for item in empty] == []

    run(main(), LOOPS[loop])


def test_items_before_an_error_and_after_cancelling(engine):
    async def main():
        got = []
        with pytest.raises(ValueError, match="invalid value"):
            async for item in engine.run_native("jobs.emit", 3, -1):
                got.append(item)
        assert got == [0, 1, 2]
        endless = engine.run_native("jobs.emit", 1 << 60)
        async for item in endless:
            if item == 5000:
                endless.cancel()
                break
        with pytest.raises(asyncio.CancelledError):
            await endless

    run(main())


def test_several_tasks_share_the_items(engine):
    async def main():
        job = engine.run_native("jobs.emit", 2000)

        async def take():
            return [item async for item in job]

        parts = await asyncio.gather(take(), take(), take())
        assert sorted(itertools.chain(*parts)) == list(range(2000))
        assert all(part == sorted(part) for part in parts)

    run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_progress_is_the_latest_state_and_comes_before_the_end(engine, loop):
    async def main():
        calls = []
        job = engine.run_native("jobs.emit", 1000, on_progress=lambda *state: calls.append(state))
        job.add_done_callback(lambda _: calls.append("done"))
        await job
        await asyncio.sleep(0)
        assert calls[-1] == "done"
        assert calls[-2] == (1000, 1000)
        assert calls[:-1] == sorted(calls[:-1])
        job = engine.run_native("jobs.emit", 1000)
        states = [state async for state in job.progress()]
        assert states[-1] == (1000, 1000)
        assert states == sorted(set(states))

    run(main(), LOOPS[loop])


def test_an_on_progress_that_fails_is_told_and_the_job_goes_on(engine):
    async def main():
        told = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: told.append(context["exception"])
        )

        def fail(done, total):
            raise ZeroDivisionError

        assert await engine.run_native("jobs.emit", 1, on_progress=fail) is None
        await asyncio.sleep(0)
        assert [type(error) for error in told] == [ZeroDivisionError]

    run(main())


def test_no_loop_no_progress(engine):
    with pytest.raises(ValueError, match="on_progress"):
        engine.run_native("jobs.emit", 1, on_progress=print)
    assert engine.run_native("jobs.emit", 1).result(LIMIT) is None
    other = engine.run_native("jobs.stubborn", b"x")

    async def wait():
        with pytest.raises(RuntimeError, match="without a running event loop"):
            await anext(aiter(other))
        await open_gate()
        assert await other == ord("x")

    run(wait())


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (-1, ValueError),
        (-2, TypeError),
        (-3, MemoryError),
        (-4, asyncio.CancelledError),
        (-5, TimeoutError),
        (-6, KeyError),
        (-7, OverflowError),
    ],
)
def test_codes_of_the_host_are_exceptions_of_python(engine, code, error):
    async def main():
        with pytest.raises(error) as caught:
            await engine.run_native("jobs.fails", code)
        if code != -4:
            assert "jobs.fails: on purpose" in str(caught.value)

    run(main())


@pytest.mark.parametrize("code", [1, 99, 2**31 - 1, -8, -9, -10, -12, -(2**31)])
def test_other_codes_are_errors_of_the_kernel(engine, code):
    async def main():
        with pytest.raises(NativeKernelError) as caught:
            await engine.run_native("jobs.fails", code)
        error = caught.value
        assert (error.code, error.kernel) == (code, "jobs.fails")
        assert "on purpose" in str(error)

    run(main())


@pytest.mark.parametrize(
    "args", [(9,), (1 << 31,), (5, 3), (6, 3), (6, 0, 99), (6, 0, -1), (6, 1 << 62), (7, 3), (8,)]
)
def test_garbage_as_a_result_is_an_error(engine, args):
    async def main():
        with pytest.raises(NativeKernelError):
            await engine.run_native("jobs.garbage", *args)
        assert engine.stats()["memory"] == 0

    run(main())


def test_what_a_kernel_without_a_signature_gets(engine):
    async def main():
        for expected, value in [
            ("none", None),
            ("bool", True),
            ("i64", -1),
            ("buf", np.int32(5)),
            ("u64", 1 << 63),
            ("f64", 0.5),
            ("f64", np.float64(0.5)),
            ("str", "text"),
            ("buf", b"bytes"),
            ("buf", bytearray(3)),
            ("buf", np.zeros((3, 3))[:, ::2]),
            ("buf", await engine.run_native("hl.sha256", b"")),
            ("chan", hybridloop.Channel()),
        ]:
            assert await engine.run_native("jobs.kind", value) == expected, value

    run(main())


def test_what_was_cancelled_or_is_late_never_runs():
    engine = NativeEngine(native_threads=1)

    async def main():
        first = engine.run_native("jobs.stubborn", b"x")
        await until(first.running)
        jobs = [engine.run_native("jobs.count") for _ in range(5)]
        late = [engine.run_native("jobs.count", timeout=0.01) for _ in range(5)]
        many = engine.run_native_many("jobs.count", [()] * 5, timeout=0.01)
        last = engine.run_native("jobs.count")
        for job in jobs:
            job.cancel()
        ends = await asyncio.gather(*jobs, *late, many, return_exceptions=True)
        expected = [asyncio.CancelledError] * 5 + [TimeoutError] * 6
        assert [type(end) for end in ends] == expected
        await open_gate()
        begin = await last
        assert await engine.run_native("jobs.count") == begin + 1

    run(main())
    assert engine.close(LIMIT) == []


def test_a_kernel_that_ignores_cancelling_keeps_its_buffers(engine):
    async def main():
        data = bytearray(b"x")
        job = engine.run_native("jobs.stubborn", data)
        await until(job.running)
        assert job.cancel()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(job), 0.05)
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
        job = engine.run_native("jobs.stubborn", data, timeout=timeout, cancel_policy="detach")
        task = asyncio.create_task(asyncio.wait_for(job, LIMIT))
        await until(job.running)
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


def test_close_names_the_kernel_that_does_not_end():
    engine = NativeEngine(native_threads=1)
    data = bytearray(b"x")

    async def main():
        job = engine.run_native("jobs.stubborn", data)
        await until(job.running)
        assert await asyncio.to_thread(engine.close, 0.05) == ["jobs.stubborn"]
        await open_gate()
        with pytest.raises(asyncio.CancelledError):
            await job
        data.clear()

    run(main())


def test_T0_3_a_kernel_runs_while_python_holds_its_lock(engine):
    """One thread keeps the lock for a second: no other thread of Python gets on."""
    beats = array.array("q", [0, 0, 0])
    counted = [0]
    stop = threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    job = engine.run_native("jobs.heartbeat", beats, 1500)
    thread = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    deadline = time.monotonic() + LIMIT
    while beats[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    thread.start()
    sys.setswitchinterval(1000)
    try:
        others, begin, end = counted[0], beats[0], time.monotonic() + 1
        seen = set()
        while time.monotonic() < end:
            seen.add(beats[0])
        assert counted[0] == others, "the lock was held"
        assert beats[0] - begin >= 50
        assert len(seen) >= 50
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join(LIMIT)
    job.result(LIMIT)
    assert beats[2] < 500e6, "nanoseconds between two beats, whatever else the machine does"


def test_a_burst_wakes_the_loop_once(engine):
    """What ends while the loop is busy is delivered in one turn."""

    async def main():
        loop = asyncio.get_running_loop()
        loop.native_engine = engine
        jobs = [loop.run_native("hl.noop") for _ in range(500)]
        batch = loop.run_native_many("hl.noop", [()] * 500)
        deadline = time.monotonic() + LIMIT
        while engine.stats()["completed"] < 1000:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        before = loop.stats().turns
        await asyncio.gather(batch, *jobs)
        assert loop.stats().turns - before <= 5

    run(main())


def test_jobs_that_sleep_run_side_by_side():
    engine = NativeEngine(native_threads=8)

    async def main():
        begin = time.monotonic()
        await engine.run_native_many("hl.sleep", [(0.05,)] * 16)
        assert time.monotonic() - begin < 0.4, "16 times 50 ms by 8 workers"

    run(main())
    assert engine.close(LIMIT) == []


FORK = """
import asyncio, os, sys, hybridloop
from hybridloop._core import NativeEngine

engine = NativeEngine(native_threads=1)
loop = hybridloop.new_event_loop()
assert loop.run_until_complete(loop.run_native("hl.crc32", b"x")) == 2363233923
running = engine.run_native("hl.sleep", 0.5)
own = loop.run_native("hl.sleep", 0.5)
if pid := os.fork():
    running.result(30)
    loop.run_until_complete(own)
    loop.close()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
for it in (engine, loop):
    for call in (lambda: it.run_native("hl.noop"), lambda: it.run_native_many("hl.noop", [()])):
        try:
            call()
        except hybridloop.NativeClosedError as error:
            assert "fork" in str(error), error
        else:
            raise AssertionError("it ran")
loop.close()

async def main():
    loop = asyncio.get_running_loop()
    assert await loop.run_native("hl.crc32", b"x") == 2363233923
    assert await loop.run_native_many("hl.crc32", [(b"x",)]) == [2363233923]

hybridloop.run(main())
del running, own
os._exit(0)
"""


def test_in_the_child_of_a_fork():
    """Engines and loops of the parent refuse; new ones work."""
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


EXIT = """
import asyncio, hybridloop, threading

async def main():
    loop = asyncio.get_running_loop()
    job = loop.run_native("hl.sleep", 100.0)
    while not job.running():
        await asyncio.sleep(0.001)
    return job

job = hybridloop.run(main())
"""


def test_a_program_ends_while_a_kernel_runs():
    command = [sys.executable, "-c", EXIT]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
