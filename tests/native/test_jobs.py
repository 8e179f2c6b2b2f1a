"""`run_native()`: a job as a future of any loop."""

import asyncio
import contextvars
import hashlib
import sys
import threading
import zlib

import pytest

import hybridloop

from .support import LIMIT, LOOPS, open_gate, open_gate_without_a_loop, run, until

pytestmark = pytest.mark.improves_on_asyncio


@pytest.mark.parametrize("loop", LOOPS)
def test_a_job_gives_the_value_of_the_kernel(engine, loop):
    async def main():
        data = bytes(range(256))
        assert await engine.run_native("hl.noop") is None
        assert await engine.run_native("hl.crc32", data) == zlib.crc32(data)
        assert await engine.run_native("hl.compare_digest", b"a", b"a") is True
        assert await engine.run_native(hybridloop.kernels["hl.crc32"], data, 5) == zlib.crc32(
            data, 5
        )
        digest = await engine.run_native("hl.sha256", memoryview(data)[3:])
        assert digest == hashlib.sha256(data[3:]).digest()
        job = engine.run_native("hl.base64.encode", data)
        assert isinstance(job, hybridloop.NativeJob)
        assert await job is await job

    run(main(), LOOPS[loop])


def test_a_loop_runs_kernels_on_the_engine_of_the_process():
    async def main():
        loop = asyncio.get_running_loop()
        before = loop.native_engine.stats()["completed"]
        assert await loop.run_native("hl.crc32", b"x") == zlib.crc32(b"x")
        assert await loop.run_native_many("hl.crc32", [(b"x",), (b"y",)]) == [
            zlib.crc32(b"x"),
            zlib.crc32(b"y"),
        ]
        await until(lambda: loop.native_engine.stats()["completed"] >= before + 3)

    run(main())


@pytest.mark.usefixtures("job_kernels")
@pytest.mark.parametrize("loop", LOOPS)
def test_asyncio_takes_a_job_for_a_future(engine, loop):
    async def main():
        running = asyncio.get_running_loop()
        job = engine.run_native("jobs.stubborn", b"x")
        assert asyncio.isfuture(job)
        assert not job.done()
        assert job.get_loop() is running
        assert asyncio.ensure_future(job) is job
        await open_gate()
        assert await asyncio.shield(job) == ord("x")
        jobs = [engine.run_native("hl.crc32", bytes([i])) for i in range(50)]
        assert await asyncio.gather(*jobs) == [zlib.crc32(bytes([i])) for i in range(50)]
        done, pending = await asyncio.wait([engine.run_native("hl.noop"), *jobs])
        assert len(done) == 51
        assert not pending
        assert await asyncio.wait_for(engine.run_native("hl.noop"), LIMIT) is None
        for next_one in asyncio.as_completed([engine.run_native("hl.noop")]):
            assert await next_one is None

    run(main(), LOOPS[loop])


def test_run_until_complete_takes_a_job(engine):
    loop = hybridloop.new_event_loop()
    try:
        loop.native_engine = engine
        assert loop.run_until_complete(loop.run_native("hl.crc32", b"x")) == zlib.crc32(b"x")
    finally:
        loop.close()


def test_many_tasks_await_one_job(engine):
    async def main():
        job = engine.run_native("hl.sleep", 0.02)

        async def wait():
            return await job

        tasks = [asyncio.create_task(wait()) for _ in range(20)]
        assert await asyncio.gather(*tasks) == [None] * 20
        assert job.done()
        assert job.exception() is None
        assert job.result() is None

    run(main())


@pytest.mark.usefixtures("job_kernels")
def test_loops_of_several_threads_await_one_job(engine):
    """Also while the loop it was submitted on does not run any more."""
    jobs, results = [], []

    async def submit():
        jobs.append(engine.run_native("jobs.stubborn", b"x"))

    run(submit())
    assert not jobs[0].done()

    def wait(factory):
        async def main():
            results.append((await jobs[0], jobs[0].get_loop() is asyncio.get_running_loop()))

        run(main(), factory)

    threads = [threading.Thread(target=wait, args=(factory,)) for factory in LOOPS.values()]
    for thread in threads:
        thread.start()
    open_gate_without_a_loop()
    for thread in threads:
        thread.join(LIMIT)
    assert results == [(ord("x"), True)] * 3


@pytest.mark.usefixtures("job_kernels")
@pytest.mark.parametrize("loop", LOOPS)
def test_callbacks_run_on_their_loop_and_in_their_context(engine, loop):
    variable = contextvars.ContextVar("variable", default=0)

    async def main():
        calls = []
        done = asyncio.Event()

        def first(job):
            calls.append((job.result(), variable.get(), threading.get_ident()))

        def last(job):
            calls.append((job.done(), variable.get(), threading.get_ident()))
            done.set()

        def never(job):
            calls.append("never")

        job = engine.run_native("jobs.stubborn", b"x")
        variable.set(1)
        job.add_done_callback(first)
        job.add_done_callback(never)
        job.add_done_callback(never)
        assert job.remove_done_callback(never) == 2
        assert job.remove_done_callback(never) == 0
        context = contextvars.copy_context()
        context.run(variable.set, 2)
        job.add_done_callback(last, context=context)
        assert not calls
        await open_gate()
        await done.wait()
        here = threading.get_ident()
        assert calls == [(ord("x"), 1, here), (True, 2, here)]
        job.add_done_callback(first)
        assert len(calls) == 2
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert calls[2] == (ord("x"), 1, here)

    run(main(), LOOPS[loop])


@pytest.mark.usefixtures("job_kernels")
def test_a_thread_without_a_loop_waits(engine):
    job = engine.run_native("jobs.stubborn", b"x")
    assert not job.done()
    with pytest.raises(TimeoutError):
        job.result(timeout=0.001)
    with pytest.raises(TimeoutError):
        job.result(0)
    open_gate_without_a_loop()
    assert job.result() == ord("x")
    assert job.done()
    assert job.exception() is None
    assert engine.run_native("hl.crc32", b"x").result(timeout=LIMIT) == zlib.crc32(b"x")


def test_waiting_gives_the_interpreter_away(engine):
    job = engine.run_native("hl.sleep", 2 * LIMIT)
    interval = sys.getswitchinterval()

    def other():
        job.cancel()

    thread = threading.Thread(target=other)
    sys.setswitchinterval(1000)  # no other thread gets the interpreter unless it is released
    try:
        thread.start()
        with pytest.raises(asyncio.CancelledError):
            job.result(LIMIT)
    finally:
        sys.setswitchinterval(interval)
    thread.join(LIMIT)


@pytest.mark.usefixtures("job_kernels")
def test_blocking_a_loop_is_refused(engine):
    async def main():
        job = engine.run_native("jobs.stubborn", b"x")
        with pytest.raises(asyncio.InvalidStateError, match="await"):
            job.result()
        with pytest.raises(asyncio.InvalidStateError):
            job.exception(timeout=1)
        await open_gate()
        await job
        assert job.result() == ord("x")

    run(main())


def test_a_signal_ends_waiting(engine):
    import _thread

    job = engine.run_native("hl.sleep", LIMIT)
    timer = threading.Timer(0.05, _thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        job.result()
    assert job.cancel()
    timer.join()


def test_the_loop_answers_while_kernels_run(engine):
    async def main():
        jobs = [engine.run_native("hl.spin", 2 * LIMIT) for _ in range(2)]
        await until(lambda: all(job.running() for job in jobs))
        for _ in range(10):
            await asyncio.sleep(0.001)
        for job in jobs:
            assert job.running()
            job.cancel()

    run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_burst_wakes_the_loop_once_a_batch(engine, loop):
    """No job is lost, whatever comes together."""

    async def main():
        for count in (1, 2, 100, 5000):
            jobs = [engine.run_native("hl.crc32", b"%d" % i) for i in range(count)]
            expected = [zlib.crc32(b"%d" % i) for i in range(count)]
            assert await asyncio.gather(*jobs) == expected

    run(main(), LOOPS[loop])
