"""Jobs and batches as futures of plain threads: callbacks, and `concurrent.futures`."""

import asyncio
import concurrent.futures
import contextvars
import subprocess
import sys
import textwrap
import threading
import zlib
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, as_completed, wait

import pytest

import hybridloop

from .support import LIMIT, LOOPS

pytestmark = pytest.mark.improves_on_asyncio

LONG = 10 * LIMIT


def test_wait_for_all(engine):
    jobs = [engine.run_native("hl.crc32", b"%d" % i) for i in range(200)]
    batch = engine.run_native_many("hl.noop", [()] * 10)
    done, pending = wait([*jobs, batch], LIMIT, ALL_COMPLETED)
    assert (done, pending) == ({*jobs, batch}, set())
    assert [job.result() for job in jobs] == [zlib.crc32(b"%d" % i) for i in range(200)]
    # They are done already.
    assert wait(jobs, 0).done == set(jobs)
    assert wait([], LIMIT) == (set(), set())


def test_wait_for_the_first(engine):
    long, short = engine.run_native("hl.sleep", LONG), engine.run_native("hl.noop")
    assert wait([long, short], LIMIT, FIRST_COMPLETED) == ({short}, {long})
    assert wait([long], 0) == (set(), {long})
    assert wait([long, short], 0) == ({short}, {long})
    failed = engine.run_native("hl.zlib.decompress", b"bad")
    assert failed in wait([long, failed], LIMIT, FIRST_EXCEPTION).done
    assert isinstance(failed.exception(), ValueError)
    long.cancel()
    assert wait([long], LIMIT) == ({long}, set())
    assert long.cancelled()


def test_as_completed(engine):
    long = engine.run_native("hl.sleep", LONG)
    jobs = [engine.run_native("hl.crc32", b"%d" % i) for i in range(50)]
    own = concurrent.futures.Future()
    own.set_result(zlib.crc32(b"own"))
    done = as_completed([long, *jobs, own], LIMIT)
    results = [next(done).result() for _ in range(51)]
    assert sorted(results) == sorted([*(job.result() for job in jobs), own.result()])
    long.cancel()
    assert list(done) == [long]
    late = engine.run_native("hl.sleep", LONG)
    with pytest.raises(TimeoutError):
        next(as_completed([late], 0))
    late.cancel()
    assert list(as_completed([late], LIMIT)) == [late]


def test_several_threads_wait_for_the_same_jobs(engine):
    jobs = [engine.run_native("hl.sleep", 0.001 * (i % 5)) for i in range(100)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(wait, jobs, LIMIT) for _ in range(4)]
        waiting += [pool.submit(lambda: set(as_completed(jobs, LIMIT))) for _ in range(4)]
        for future in waiting[:4]:
            assert future.result(LIMIT) == (set(jobs), set())
        for future in waiting[4:]:
            assert future.result(LIMIT) == set(jobs)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_jobs_of_a_loop_that_does_not_run(engine, loop):
    async def main():
        return [engine.run_native("hl.crc32", b"x"), engine.run_native_many("hl.noop", [()])]

    event_loop = LOOPS[loop]()
    try:
        jobs = event_loop.run_until_complete(main())
        assert wait(jobs, LIMIT) == (set(jobs), set())
        assert jobs[0].result() == zlib.crc32(b"x")
    finally:
        event_loop.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_the_jobs_of_a_running_loop(engine, loop):
    async def main():
        jobs = [engine.run_native("hl.crc32", b"%d" % i) for i in range(20)]
        waited = await asyncio.to_thread(wait, jobs, LIMIT)
        assert waited == (set(jobs), set())
        return await asyncio.gather(*jobs)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        assert runner.run(main()) == [zlib.crc32(b"%d" % i) for i in range(20)]


def test_callbacks_of_a_thread_without_a_loop(engine):
    called = threading.Event()
    seen = []
    variable = contextvars.ContextVar("variable")

    def callback(job):
        seen.append((job, job.result(), variable.get()))
        called.set()

    variable.set("now")
    for work in (engine.run_native("hl.sleep", 0.01), engine.run_native_many("hl.noop", [()])):
        called.clear()
        work.add_done_callback(callback)
        assert called.wait(LIMIT)
        assert seen.pop() == (work, work.result(), "now")
        # At once, because it is done.
        work.add_done_callback(callback)
        assert seen.pop() == (work, work.result(), "now")
    own = contextvars.Context()
    own.run(variable.set, "own")
    work.add_done_callback(callback, context=own)
    assert seen.pop()[2] == "own"
    failed = engine.run_native("hl.zlib.decompress", b"bad")
    called.clear()
    failed.add_done_callback(lambda job: (seen.append(job.exception()), called.set()))
    assert called.wait(LIMIT)
    assert isinstance(seen.pop(), ValueError)


def test_a_callback_can_be_removed(engine):
    job = engine.run_native("hl.sleep", LONG)
    called, other = threading.Event(), threading.Event()

    def callback(_):
        called.set()

    job.add_done_callback(callback)
    job.add_done_callback(callback)
    job.add_done_callback(lambda _: other.set())
    assert job.remove_done_callback(callback) == 2
    job.cancel()
    assert other.wait(LIMIT)
    assert not called.is_set()


def test_a_callback_that_fails_is_reported_and_the_others_are_called(engine, monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: reported.append(args.exc_type))
    called = threading.Event()
    job = engine.run_native("hl.sleep", 0.01)

    def fail(_):
        raise ZeroDivisionError

    job.add_done_callback(fail)
    job.add_done_callback(lambda _: called.set())
    assert called.wait(LIMIT)
    assert ZeroDivisionError in reported


def test_a_callback_may_submit_and_wait(engine):
    results, done = [], threading.Event()

    def callback(job):
        results.append(job.result())
        results.append(hybridloop.run_native("hl.crc32", b"x").result(LIMIT))
        if len(results) < 6:
            engine.run_native("hl.noop").add_done_callback(callback)
        else:
            done.set()

    engine.run_native("hl.noop").add_done_callback(callback)
    assert done.wait(LIMIT)
    assert results == [None, zlib.crc32(b"x")] * 3


def run_program(program):
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, timeout=300, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_child_of_a_fork_has_a_thread_of_its_own():
    program = """
        import concurrent.futures, os, threading
        from hybridloop import run_native

        def check():
            called = threading.Event()
            job = run_native("hl.sleep", 0.01)
            job.add_done_callback(lambda _: called.set())
            assert called.wait(100)
            jobs = [run_native("hl.crc32", b"x") for _ in range(10)]
            assert concurrent.futures.wait(jobs, 100).done == set(jobs)

        check()
        if pid := os.fork():
            check()
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            print("both")
        else:
            check()
            os._exit(0)
    """
    assert run_program(program) == "both\n"


def test_a_process_ends_while_callbacks_wait():
    program = """
        from hybridloop import run_native

        for _ in range(3):
            run_native("hl.sleep", 1000).add_done_callback(lambda job: job.cancelled())
        print("end", flush=True)
    """
    assert run_program(program) == "end\n"
