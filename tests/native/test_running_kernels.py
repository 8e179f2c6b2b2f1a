"""What jobs do with kernels that fail, misbehave and take their time."""

import array
import asyncio
import subprocess
import sys
import threading
import time

import pytest

import hybridloop
from hybridloop import NativeKernelError
from hybridloop._core import NativeEngine

from .support import LIMIT, open_gate, run, until

pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.usefixtures("job_kernels")]


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
    np = pytest.importorskip("numpy")

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
    """One thread keeps the lock: no other thread of Python gets on."""
    beats = array.array("q", [0, 0])
    counted = [0]
    stop = threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    job = engine.run_native("jobs.heartbeat", beats, int(LIMIT * 1000))
    thread = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    deadline = time.monotonic() + LIMIT
    while beats[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    # First: a thread that waits already would ask for the lock after the old interval.
    sys.setswitchinterval(1000)
    try:
        thread.start()
        others, seen = counted[0], set()
        while len(seen) < 50:
            assert time.monotonic() < deadline
            seen.add(beats[0])
        assert counted[0] == others, "the lock was held"
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        beats[1] = True
        thread.join(LIMIT)
    job.result(LIMIT)


def test_a_burst_wakes_the_loop_once(engine):
    """What ends while the loop is busy is delivered in one iteration."""

    async def main():
        loop = asyncio.get_running_loop()
        loop.native_engine = engine
        jobs = [loop.run_native("hl.noop") for _ in range(500)]
        batch = loop.run_native_many("hl.noop", [()] * 500)
        deadline = time.monotonic() + LIMIT
        while engine.stats()["completed"] < 1000:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        before = loop.stats().iterations
        await asyncio.gather(batch, *jobs)
        assert loop.stats().iterations - before <= 5

    run(main())


def test_jobs_that_sleep_run_side_by_side():
    engine = NativeEngine(native_threads=8)

    async def main():
        batch = engine.run_native_many("hl.sleep", [(2 * LIMIT,)] * 16)
        await until(lambda: engine.stats()["running"] == 8)
        batch.cancel()

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
    running.result(300)
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
    done = subprocess.run(command, timeout=300, capture_output=True, text=True)
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
    done = subprocess.run(command, timeout=300, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
