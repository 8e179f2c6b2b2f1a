"""Forks while native threads work: in the child, what the parent has made works or refuses."""

import ctypes
import gc
import subprocess
import sys
import textwrap

import pytest

from hybridloop import register_kernel
from hybridloop._core import NativeEngine

from .support import LIMIT

pytestmark = pytest.mark.improves_on_asyncio

HEAD = """
import asyncio, contextlib, faulthandler, gc, itertools, os, sys, threading, time, traceback
import hybridloop, uvloop
from hybridloop import BusClosedError, Channel, NativeClosedError
from hybridloop._core import NativeEngine

LIMIT = 100

def refused(error, call, *args):
    try:
        call(*args)
    except error as raised:
        assert "parent" in str(raised) or error is BusClosedError, raised
    else:
        raise AssertionError(f"{call} of the parent works in the child")

def in_child(check, leave):
    '''Fork; the child checks and leaves. If that takes too long, it shows where it is.'''
    if pid := os.fork():
        return pid
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    try:
        check()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    leave(0)

def wait(pid):
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, code

def run_on(loop, awaitable):
    async def main():
        async with asyncio.timeout(LIMIT):
            return await awaitable
    return loop.run_until_complete(main())
"""


def run(program, *arguments, timeout=300):
    command = [sys.executable, "-W", "ignore", "-c", HEAD + textwrap.dedent(program), *arguments]
    done = subprocess.run(command, timeout=timeout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "panicked" not in done.stderr
    return done


STORM = """
hybridloop.load_kernels(sys.argv[1])
engine = NativeEngine(native_threads=3)
bus, channel, quiet = engine.bus, Channel(), Channel("lifo", limit=5)
quiet.push(b"of the parent")
bus.push("kept", b"of the parent")
loop = hybridloop.new_event_loop()
loop.native_engine = engine
others = [asyncio.SelectorEventLoop(), uvloop.new_event_loop()]

# Two storms, one of them on a loop; jobs that come and go as fast as another thread submits them.
storms = [
    engine.run_native("fork.storm", channel),
    loop.run_native("fork.storm", channel, on_progress=lambda *_: None),
]
while not all(job.running() for job in storms):
    time.sleep(0.001)
over = threading.Event()

def submit():
    while not over.is_set():
        engine.run_native_many("hl.noop", [()] * 50).result(LIMIT)
        engine.run_native("hl.crc32", b"x").result(LIMIT)

thread = threading.Thread(target=submit, daemon=True)
thread.start()
done = engine.run_native("hl.crc32", b"x")
assert done.result(LIMIT) == 2363233923
failed = loop.run_native("hl.sum", b"not numbers")
with contextlib.suppress(TypeError):
    run_on(loop, failed)

async def waits():
    async with asyncio.timeout(LIMIT * 4):
        await asyncio.gather(quiet_of[asyncio.get_running_loop()].get(), bus.wait("late"))

quiet_of = {each: Channel() for each in [loop, *others]}
waiting = {}
for each in quiet_of:
    waiting[each] = each.create_task(waits())
    run_on(each, asyncio.sleep(0.001))

def check():
    jobs = [*storms, last, batch]
    for job in jobs:
        if job.done():
            continue
        assert not job.cancelled() and job.cancel() is False, job
        assert not getattr(job, "running", bool)()
        refused(NativeClosedError, job.result)
        refused(NativeClosedError, job.result, 0.01)
        refused(NativeClosedError, job.exception)
        refused(NativeClosedError, job.add_done_callback, print)
        assert job.remove_done_callback(print) == 0
        repr(job)
    assert done.done() and done.result() == 2363233923 and done.exception() is None
    assert type(failed.exception()) is TypeError

    for each in (channel, quiet):
        refused(NativeClosedError, each.push, 1)
        refused(NativeClosedError, each.pop)
        refused(NativeClosedError, each.drain)
        refused(NativeClosedError, each.flush)
        refused(NativeClosedError, len, each)
        refused(NativeClosedError, each.wait)
        refused(NativeClosedError, each.get, 1)
        each.close()
        assert each.closed and each and each.order and "parent" in repr(each)
    assert quiet.limit == 5

    refused(BusClosedError, bus.push, "new", b"1")
    refused(BusClosedError, bus.try_push, "new", b"1")
    refused(BusClosedError, bus.get, "kept")
    refused(BusClosedError, bus.pop, "kept")
    refused(BusClosedError, bus.wait, "kept")
    refused(BusClosedError, bus.busy, "kept")
    assert "kept" not in bus and len(bus) == 0 and bus.keys() == []
    repr(bus), bus.stats()

    for it in (engine, loop):
        refused(NativeClosedError, it.run_native, "hl.noop")
        refused(NativeClosedError, it.run_native_many, "hl.noop", [()])
    assert engine.stats() == {} and engine.close() == [] and not engine.is_current_process
    assert engine.bus is bus
    repr(engine)

    async def main():
        for job in jobs:
            if not job.done():
                refused(NativeClosedError, job.__await__().send, None)
                with contextlib.suppress(NativeClosedError):
                    async with asyncio.timeout(LIMIT):
                        await asyncio.gather(job)
                    raise AssertionError("a job of the parent has ended in the child")
        for stream in (storms[0], storms[1], storms[1].progress(), channel):
            with contextlib.suppress(NativeClosedError):
                async for _ in stream:
                    pass
                raise AssertionError(f"{stream} has ended in the child")
        assert [await done] == await asyncio.gather(done) == [2363233923]
        own = Channel()
        here = asyncio.get_running_loop()
        # One worker is busy, whatever the number of processors.
        here.native_engine = NativeEngine(native_threads=2)
        refused(NativeClosedError, here.run_native, "fork.storm", channel)
        busy = here.run_native("fork.storm", own)
        while not busy.running():
            await asyncio.sleep(0)
        assert await here.run_native("hl.crc32", b"x") == 2363233923
        assert await here.run_native_many("hl.crc32", [(b"x",)] * 9) == [2363233923] * 9
        assert busy.cancel()
        await asyncio.wait([asyncio.ensure_future(busy)])
        assert busy.cancelled()
        own.flush()
        own.push(1)
        assert await own.get() == 1
        here.native_engine.bus.push("new", b"1")
        assert await here.native_engine.bus.wait("new") == b"1"

    hybridloop.run(main())
    asyncio.run(main_of_another_loop())
    # A loop of the parent with an engine of the child: it does not run, but its jobs do.
    loop.native_engine = NativeEngine(native_threads=1)
    assert loop.run_native("hl.crc32", b"x").result(LIMIT) == 2363233923
    loop.close()

async def main_of_another_loop():
    own = NativeEngine(native_threads=1)
    assert await own.run_native("hl.crc32", b"x") == 2363233923
    own.close()

def collect_and_exit(code):
    everything = "storms last batch waiting channel quiet bus engine loop quiet_of others each"
    for name in everything.split():
        globals().pop(name)
        gc.collect()
    sys.exit(code)

leaves = itertools.cycle([os._exit, sys.exit, collect_and_exit])
for number in range(int(sys.argv[2])):
    last = loop.run_native("hl.sleep", 0.0005)
    batch = engine.run_native_many("hl.sleep", [(0.0001,)] * 20)
    run_on(loop, asyncio.sleep(0))
    wait(in_child(check, next(leaves)))
    del last, batch

# The parent has noticed nothing.
over.set()
thread.join(LIMIT)
assert not thread.is_alive()
assert all(job.cancel() for job in storms)
for each, task in waiting.items():
    assert not task.done()
    quiet_of[each].push(1)
bus.push("late", b"1")
for each, task in waiting.items():
    run_on(each, task)
assert quiet.pop() == b"of the parent"
assert run_on(loop, bus.wait("kept")) == b"of the parent"

async def ended():
    await asyncio.wait([asyncio.ensure_future(job) for job in storms])

run_on(loop, ended())
assert all(job.cancelled() for job in storms)
assert engine.close(LIMIT) == []
for each in [loop, *others]:
    each.close()
"""


def test_forks_while_native_threads_are_at_work(compile_c):
    """A third of the children end at once, a third like programs, a third take all down before."""
    run(STORM, str(compile_c("fork")), "30")


def test_a_fork_in_a_coroutine():
    run(
        """
        async def main():
            loop = asyncio.get_running_loop()
            loop.native_engine = NativeEngine(native_threads=1)
            job = loop.run_native("hl.sleep", LIMIT)
            ended, channel = loop.run_native("hl.crc32", b"x"), Channel()
            taken = asyncio.ensure_future(channel.get())
            await asyncio.sleep(0)
            pid = os.fork()
            if pid == 0:
                faulthandler.dump_traceback_later(LIMIT, exit=True)
                for waits in (lambda: job, channel.get, lambda: loop.bus.wait("key")):
                    try:
                        await waits()
                    except (NativeClosedError, BusClosedError):
                        continue
                    os._exit(1)
                os._exit(0)
            async with asyncio.timeout(LIMIT):
                assert job.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await job
                assert await ended == 2363233923
                channel.push("taken")
                assert await taken == "taken"
            wait(pid)
            return pid

        assert hybridloop.run(main())
        """
    )


def test_a_job_that_was_done_before_its_loop_saw_it():
    run(
        """
        engine, loop = NativeEngine(native_threads=1), hybridloop.new_event_loop()
        loop.native_engine = engine
        job = loop.run_native("hl.crc32", b"x")
        batch = loop.run_native_many("hl.crc32", [(b"x",)] * 3)
        # The only worker has finished the others by then.
        engine.run_native("hl.noop").result(LIMIT)
        called = []

        def check():
            assert job.done() and job.result() == 2363233923
            assert batch.result(LIMIT) == [2363233923] * 3

            async def main():
                assert await job == 2363233923
                job.add_done_callback(called.append)
                await asyncio.sleep(0)
                assert called == [job]

            hybridloop.run(main())

        wait(in_child(check, sys.exit))
        assert run_on(loop, job) == 2363233923 and not called
        loop.close()
        """
    )


def test_kernels_are_found_while_another_thread_of_the_parent_looks_for_them():
    run(
        """
        from hybridloop.native import registry
        held, go_on = threading.Event(), threading.Event()

        def hold():
            with registry._discover_lock:
                held.set()
                go_on.wait(LIMIT)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(LIMIT)

        def check():
            try:
                hybridloop.kernels["nobody.has.this"]
            except KeyError:
                pass

        wait(in_child(check, os._exit))
        go_on.set()
        thread.join()
        """
    )


def test_what_a_kernel_keeps_goes_with_its_last_job(name):
    """A worker cannot drop Python objects: the next thread that uses kernels does."""
    engine = NativeEngine(native_threads=1)
    prototype = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)
    address = ctypes.cast(ctypes.CDLL("libm.so.6").cbrt, ctypes.c_void_p).value
    for number in range(200):
        owner = prototype(address)
        owner.number = number
        register_kernel(name, owner, replace=True)
        # No reference to the job is left: either the detached queue or the worker drops it last.
        engine.run_native(name, 1.0)
        del owner
    register_kernel(name, prototype(address), replace=True)
    engine.run_native("hl.noop").result(LIMIT)
    assert engine.close(LIMIT) == []
    engine = NativeEngine(native_threads=1)
    engine.run_native("hl.noop").result(LIMIT)
    assert engine.close(LIMIT) == []
    gc.collect()
    kept = [it for it in gc.get_objects() if type(it) is prototype and hasattr(it, "number")]
    assert kept == []
