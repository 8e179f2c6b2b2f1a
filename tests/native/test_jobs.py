"""`run_native()`: a job as a future of any loop, from its submission to its end."""

import asyncio
import contextvars
import gc
import hashlib
import sys
import threading
import time
import weakref
import zlib

import pytest
import uvloop

import hybridloop
from hybridloop import NativeClosedError, NativeQueueFullError
from hybridloop._core import NativeEngine

pytestmark = pytest.mark.improves_on_asyncio

LIMIT = 20.0
LOOPS = {
    "hybridloop": hybridloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


def run(main, factory=hybridloop.new_event_loop):
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(asyncio.wait_for(main, LIMIT))


async def until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@pytest.fixture
def single():
    """An engine with one worker."""
    engine = NativeEngine(native_threads=1, max_native_queue=3)
    yield engine
    assert engine.close(LIMIT) == []
    assert engine.stats()["memory"] == 0


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


@pytest.mark.parametrize("loop", LOOPS)
def test_asyncio_takes_a_job_for_a_future(engine, loop):
    async def main():
        running = asyncio.get_running_loop()
        job = engine.run_native("hl.sleep", 0.01)
        assert asyncio.isfuture(job)
        assert not job.done()
        assert job.get_loop() is running
        assert asyncio.ensure_future(job) is job
        assert await asyncio.shield(job) is None
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


def test_loops_of_several_threads_await_one_job(engine):
    """Also while the loop it was submitted on does not run any more."""
    jobs, results = [], []

    async def submit():
        jobs.append(engine.run_native("hl.sleep", 0.3))

    run(submit())
    assert not jobs[0].done()

    def wait(factory):
        async def main():
            results.append((await jobs[0], jobs[0].get_loop() is asyncio.get_running_loop()))

        run(main(), factory)

    threads = [threading.Thread(target=wait, args=(factory,)) for factory in LOOPS.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert results == [(None, True)] * 3


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

        job = engine.run_native("hl.sleep", 0.01)
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
        await done.wait()
        here = threading.get_ident()
        assert calls == [(None, 1, here), (True, 2, here)]
        job.add_done_callback(first)
        assert len(calls) == 2
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert calls[2] == (None, 1, here)

    run(main(), LOOPS[loop])


def test_a_thread_without_a_loop_waits(engine):
    job = engine.run_native("hl.sleep", 0.05)
    assert not job.done()
    with pytest.raises(TimeoutError):
        job.result(timeout=0.001)
    with pytest.raises(TimeoutError):
        job.result(0)
    assert job.result() is None
    assert job.done()
    assert job.exception() is None
    assert engine.run_native("hl.crc32", b"x").result(timeout=LIMIT) == zlib.crc32(b"x")
    with pytest.raises(RuntimeError, match="no running event loop"):
        job.add_done_callback(print)


def test_waiting_gives_the_interpreter_away(engine):
    job = engine.run_native("hl.sleep", 0.2)
    seen = []

    def other():
        while not job.done():
            seen.append(time.monotonic())

    thread = threading.Thread(target=other)
    thread.start()
    job.result(LIMIT)
    thread.join(LIMIT)
    assert len(seen) > 10


def test_blocking_a_loop_is_refused(engine):
    async def main():
        job = engine.run_native("hl.sleep", 0.02)
        with pytest.raises(asyncio.InvalidStateError, match="await"):
            job.result()
        with pytest.raises(asyncio.InvalidStateError):
            job.exception(timeout=1)
        await job
        assert job.result() is None

    run(main())


def test_a_signal_ends_waiting(engine):
    import _thread

    job = engine.run_native("hl.sleep", LIMIT)
    timer = threading.Timer(0.05, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        job.result()
    assert job.cancel()


def test_cancelling_what_waits_what_runs_and_what_is_done(single):
    async def main():
        loop = asyncio.get_running_loop()
        loop.native_engine = single
        running = loop.run_native("hl.sleep", LIMIT)
        await until(running.running)
        waiting = loop.run_native("hl.crc32", b"x")
        completed = single.stats()["completed"]
        assert waiting.cancel("because")
        with pytest.raises(asyncio.CancelledError, match="because"):
            await waiting
        assert waiting.cancelled()
        assert single.stats()["completed"] == completed, "it has not run"
        assert single.stats()["queued"] == 0
        assert running.cancel()
        assert not running.done(), "not before the kernel has returned"
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
        kept = engine.run_native("hl.sleep", 0.05)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(kept), 0.01)
        assert await kept is None

    run(main(), LOOPS[loop])


def test_a_timeout_ends_what_waits_and_what_runs(single):
    async def main():
        loop = asyncio.get_running_loop()
        loop.native_engine = single
        running = loop.run_native("hl.sleep", LIMIT, timeout=0.15)
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
        with pytest.raises(TimeoutError, match=r"hl\.sleep"):
            await running
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


def test_priorities_come_first(single):
    async def main():
        loop = asyncio.get_running_loop()
        loop.native_engine = single
        order = []
        running = loop.run_native("hl.sleep", 0.1)
        await until(running.running)
        for priority in (0, -1, 5):
            job = loop.run_native("hl.noop", priority=priority)
            job.add_done_callback(lambda _, priority=priority: order.append(priority))
        await until(lambda: len(order) == 3)
        assert order == [5, 0, -1]

    run(main())


def test_a_full_queue_refuses_and_keeps_nothing(single):
    async def main():
        loop = asyncio.get_running_loop()
        loop.native_engine = single
        running = loop.run_native("hl.sleep", LIMIT)
        await until(running.running)
        data = bytearray(10)
        jobs = [loop.run_native("hl.crc32", data) for _ in range(3)]
        references = sys.getrefcount(data)
        with pytest.raises(NativeQueueFullError, match="3"):
            loop.run_native("hl.crc32", data)
        with pytest.raises(NativeQueueFullError):
            loop.run_native_many("hl.crc32", [(data,)])
        assert sys.getrefcount(data) == references
        running.cancel()
        assert len(set(await asyncio.gather(*jobs))) == 1
        data.append(1)

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


def test_bad_arguments_are_refused_with_their_name(engine):
    async def main():
        before = engine.stats()
        for error, match, args in [
            (LookupError, "hl.none", ("hl.none",)),
            (TypeError, "Kernel", (3,)),
            (TypeError, "seconds", ("hl.sleep",)),
            (TypeError, "at most 1", ("hl.sleep", 1, 2)),
            (TypeError, "'seconds': expected f64, got str", ("hl.sleep", "1")),
            (TypeError, "'data': expected bytes, got int", ("hl.crc32", 1)),
            (TypeError, "'start': expected u32, got float", ("hl.crc32", b"", 1.5)),
            (OverflowError, "'start'.*out of range", ("hl.crc32", b"", -1)),
            (OverflowError, "'start'.*64 bits", ("hl.crc32", b"", 1 << 70)),
            (TypeError, "'data'.*object", ("hl.crc32", object())),
            (ValueError, "'data'.*contiguous", ("hl.crc32", memoryview(b"abcdef")[::2])),
        ]:
            with pytest.raises(error, match=match):
                engine.run_native(*args)
        for error, match, keywords in [
            (TypeError, "unexpected keyword argument 'nope'", {"nope": 1}),
            (ValueError, "cancel_policy", {"cancel_policy": "hope"}),
            (ValueError, "NaN", {"timeout": float("nan")}),
            (TypeError, "timeout|real number|float", {"timeout": "1"}),
            (OverflowError, "int", {"priority": 1 << 40}),
            (TypeError, "on_progress", {"on_progress": 1}),
            (TypeError, "out", {"out": bytearray(1)}),
            (TypeError, "key", {"key": 1}),
            (ValueError, "key", {"key": ""}),
        ]:
            with pytest.raises(error, match=match):
                engine.run_native("hl.noop", **keywords)
        for error, match, args in [
            (TypeError, "calls", ("hl.noop",)),
            (TypeError, "iterable", ("hl.noop", 1)),
            (TypeError, "call 1: expected a tuple", ("hl.noop", [(), b""])),
            (TypeError, "seconds", ("hl.sleep", [(0.0,), ()])),
        ]:
            with pytest.raises(error, match=match):
                engine.run_native_many(*args)
        assert engine.stats() == before

    run(main())


def test_a_key_puts_the_result_on_the_bus(engine):
    async def main():
        digest = await engine.run_native("hl.sha256", b"x", key="digest")
        assert engine.bus.get("digest") == digest == hashlib.sha256(b"x").digest()

    run(main())


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


def test_an_error_that_nobody_has_seen_is_told(engine):
    async def main():
        told = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))
        job = engine.run_native("hl.zstd.decompress", b"not compressed")
        done = asyncio.Event()
        job.add_done_callback(lambda _: done.set())
        await done.wait()
        del job
        await asyncio.sleep(0)
        gc.collect()
        assert [(str(context["message"]), type(context["exception"])) for context in told] == [
            ("exception of native kernel 'hl.zstd.decompress' was never retrieved", ValueError)
        ]

    run(main())


def test_a_job_that_nobody_holds_runs_and_lets_go(engine):
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


def test_the_loop_answers_while_kernels_run(engine):
    async def main():
        jobs = [engine.run_native("hl.spin", 0.1) for _ in range(2)]
        ticks = 0
        while not all(job.done() for job in jobs):
            await asyncio.sleep(0.001)
            ticks += 1
        assert ticks > 5

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


def test_many_threads_submit_to_one_loop(engine):
    async def main():
        loop = asyncio.get_running_loop()
        loop.native_engine = engine

        def submit():
            return [loop.run_native("hl.crc32", b"%d" % i).result(LIMIT) for i in range(300)]

        expected = [zlib.crc32(b"%d" % i) for i in range(300)]
        results = await asyncio.gather(*(asyncio.to_thread(submit) for _ in range(3)))
        assert results == [expected] * 3

    run(main())


def test_an_error_that_nobody_asks_for_is_told_before_the_collector_clears_it(engine, loop):
    """The job may die as the last of a cycle, when its exception is an empty shell."""
    told = []
    loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))

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
    assert len(told) == 3 and all(told)
