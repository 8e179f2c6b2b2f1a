"""Completion tokens: kernels that leave their end to a thread of a library."""

import asyncio
import ctypes
import gc
import threading

import pytest

import hybridloop
from hybridloop import BufferInUseError, Channel, NativeQueueFullError
from hybridloop._core import NativeEngine

from .support import LIMIT, LOOPS, run, until

pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.usefixtures("token_kernels")]


@pytest.fixture(scope="module")
def token_library(compile_c):
    return compile_c("tokens")


@pytest.fixture
def token_kernels(token_library):
    """The kernels of `tokens.c`; at the end nothing is kept."""
    hybridloop.load_kernels(token_library, replace=True)
    engine = NativeEngine(native_threads=1)
    yield
    engine.run_native("tokens.release").result(LIMIT)
    assert run(count(engine, 0)) == 0
    engine.close(LIMIT)


async def count(engine, expected, *, stops=False):
    """Wait until so many calls are live, or so many were stopped."""
    while (found := await engine.run_native("tokens.count", stops)) != expected:
        await asyncio.sleep(0.001)
    return found


async def kept(engine, *jobs):
    """Wait until the calls of the jobs wait for their completion."""
    await until(lambda: engine.stats()["pending"] >= len(jobs))
    assert all(job.running() and not job.done() for job in jobs)


async def release(engine):
    return await engine.run_native("tokens.release")


@pytest.mark.parametrize("loop", LOOPS)
def test_results_come_from_a_thread_of_the_library(single, loop):
    async def main():
        for value in (5, 0.5, None, True, "text"):
            # The library says that text is not the host's.
            if value == "text":
                with pytest.raises(RuntimeError, match="memory that is not the host's"):
                    await single.run_native("tokens.echo", value)
            else:
                assert await single.run_native("tokens.echo", value) == value
        assert await single.run_native("tokens.echo", b"bytes") == b"bytes"
        with pytest.raises(ValueError, match="negative"):
            await single.run_native("tokens.echo", -1)
        jobs = [single.run_native("tokens.echo", value) for value in range(3)]
        assert await asyncio.gather(*jobs) == [0, 1, 2]
        assert single.stats()["pending"] == 0

    run(main(), LOOPS[loop])


def test_calls_wait_without_workers(engine):
    async def main():
        jobs = [engine.run_native("tokens.keep", value) for value in range(500)]
        await kept(engine, *jobs)
        await until(lambda: engine.stats()["running"] == 0)
        assert await engine.run_native("hl.crc32", b"123456789") == 0xCBF43926
        assert not any(job.done() for job in jobs)
        assert await release(engine) == 500
        assert await asyncio.gather(*jobs) == list(range(500))
        batch = engine.run_native_many("tokens.echo", [(value,) for value in range(500)])
        assert await batch == list(range(500))
        assert engine.stats()["pending"] == 0

    run(main())


def test_calls_that_wait_count_as_queued(single):
    async def main():
        jobs = [single.run_native("tokens.keep", value) for value in range(3)]
        await kept(single, *jobs)
        with pytest.raises(NativeQueueFullError, match="3 native jobs are waiting"):
            single.run_native("hl.noop")
        other = NativeEngine(native_threads=1)
        assert await release(other) == 3
        assert await asyncio.gather(*jobs) == [0, 1, 2]
        await single.run_native("hl.noop")
        assert other.close(LIMIT) == []

    run(main())


def test_statistics():
    with hybridloop.Engine(native_threads=1) as engine:
        job = engine.run_native("tokens.keep", 1)
        run(until(lambda: engine.stats().native.pending == 1))
        run(until(lambda: engine.stats().native.busy == 0))
        assert engine.run_native("tokens.release").result(LIMIT) == 1
        assert job.result(LIMIT) == 1
        assert engine.stats().native.pending == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_a_buffer_is_in_use_until_the_call_is_completed(engine, loop):
    async def main():
        data = bytearray(100)
        job = engine.run_native("tokens.fill_later", data)
        await kept(engine, job)
        with pytest.raises(BufferInUseError):
            engine.run_native("tokens.fill", data)
        with pytest.raises(BufferError):
            data.append(1)
        await release(engine)
        assert await job == 100
        assert data == bytes(range(100))
        data.append(1)
        states = []
        job = engine.run_native(
            "tokens.fill", bytearray(50), on_progress=lambda *state: states.append(state)
        )
        assert [item async for item in job] == list(range(50))
        assert await job == 50
        await asyncio.sleep(0)
        assert states[-1] == (50, 50)

    run(main(), LOOPS[loop])


def test_the_result_goes_to_the_bus_too(engine, bus):
    async def main():
        job = engine.run_native("tokens.keep", b"data", key="later")
        await kept(engine, job)
        assert "later" not in bus
        await release(engine)
        assert await bus.wait("later") == await job == b"data"

    run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelling_stops_the_library(engine, loop):
    async def main():
        before = await engine.run_native("tokens.count", True)
        task = asyncio.ensure_future(engine.run_native("tokens.wait", 1))
        job = engine.run_native("tokens.wait", 2)
        await kept(engine, job, job)

        async def wait():
            await job

        waiter = asyncio.create_task(wait())
        await asyncio.sleep(0)
        assert job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() and job.cancelled()
        await count(engine, before + 2, stops=True)

    run(main(), LOOPS[loop])


def test_a_library_that_does_not_stop_keeps_the_job_or_the_buffer(engine):
    async def main():
        before = await engine.run_native("tokens.count", True)
        data = bytearray(3)
        job = engine.run_native("tokens.fill_later", data)
        detached = engine.run_native("tokens.keep", 1, cancel_policy="detach")
        await kept(engine, job, detached)
        assert job.cancel() and detached.cancel()
        assert detached.cancelled() and not job.done()
        await count(engine, before + 2, stops=True)
        with pytest.raises(BufferInUseError):
            engine.run_native("tokens.fill", data)
        await release(engine)
        with pytest.raises(asyncio.CancelledError):
            await job
        # It was written all the same.
        assert data == bytes(range(3))

    run(main())


@pytest.mark.parametrize("policy", ["wait", "detach"])
def test_a_timeout_stops_the_library(engine, policy):
    async def main():
        job = engine.run_native("tokens.wait", 1, timeout=0.05, cancel_policy=policy)
        with pytest.raises(TimeoutError):
            await job
        await until(lambda: engine.stats()["pending"] == 0)

    run(main())
    # Nobody watches the time but the engine.
    job = engine.run_native("tokens.wait", 1, timeout=0.05, cancel_policy=policy)
    with pytest.raises(TimeoutError):
        job.result(LIMIT)
    loop = hybridloop.new_event_loop()
    loop.native_engine = engine
    job = loop.run_native("tokens.wait", 1, timeout=0.05)
    loop.close()
    with pytest.raises(TimeoutError):
        job.result(LIMIT)


def test_a_loop_closes_before_the_call_is_completed(engine):
    async def main():
        job = engine.run_native("tokens.keep", 7)
        await kept(engine, job)
        return job

    job = run(main())
    thread = threading.Thread(target=engine.run_native("tokens.release").result, args=(LIMIT,))
    thread.start()
    assert job.result(LIMIT) == 7
    thread.join(LIMIT)

    async def again():
        return await job

    assert run(again()) == 7


def test_a_job_without_a_reference_goes_on(engine):
    async def main():
        channel = Channel()
        data = bytearray(4)
        engine.run_native("tokens.fill_later", data).add_done_callback(
            lambda job: channel.push(job.result())
        )
        await until(lambda: engine.stats()["pending"] == 1)
        gc.collect()
        await release(engine)
        assert (await channel.get(LIMIT), data) == (4, bytes(range(4)))

    run(main())


def test_closing_an_engine_names_what_the_library_keeps():
    engine = NativeEngine(native_threads=1)
    kept, stops = engine.run_native("tokens.keep", 1), engine.run_native("tokens.wait", 2)
    run(until(lambda: engine.stats()["pending"] == 2))
    assert engine.close(0.0) in (["tokens.keep"], ["tokens.keep", "tokens.wait"])
    with pytest.raises(asyncio.CancelledError):
        stops.result(LIMIT)
    assert not kept.done()
    other = NativeEngine(native_threads=1)
    assert other.run_native("tokens.release").result(LIMIT) == 1
    with pytest.raises(asyncio.CancelledError):
        kept.result(LIMIT)
    assert engine.close(LIMIT) == other.close(LIMIT) == []


def test_the_kernel_of_a_capsule_goes_after_its_calls(token_library, engine):
    library = ctypes.CDLL(str(token_library))
    dropped = ctypes.c_int.in_dll(library, "tokens_dropped")
    entry = ctypes.addressof(ctypes.c_char.in_dll(library, "tokens_entry"))
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object
    new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

    async def main():
        capsule = new_capsule(entry, b"hybridloop.kernel.v1", None)
        hybridloop.register_kernel("tokens.capsule", capsule)
        del capsule
        job = engine.run_native("tokens.capsule", 3)
        await kept(engine, job)
        # Another kernel takes its name; then only the call has it.
        other = ("libm.so.6", "cbrt")
        hybridloop.register_kernel("tokens.capsule", other, "f64(f64)", replace=True)
        gc.collect()
        await engine.run_native("hl.noop")
        assert dropped.value == 0
        await release(engine)
        assert await job == 3
        del job

        def gone():
            gc.collect()
            return dropped.value == 1

        await until(gone)

    run(main())


def test_a_process_ends_with_calls_that_nobody_completes(token_library, run_script):
    done = run_script(
        f"""
        import hybridloop
        hybridloop.load_kernels({str(token_library)!r})

        async def main():
            loop = asyncio.get_running_loop()
            hybridloop.jobs = [
                loop.run_native("tokens." + name, bytes(9)) for name in ("keep", "wait") * 50
            ]
            while loop.native_engine.stats()["pending"] < 100:
                await asyncio.sleep(0.001)
            print("end", flush=True)

        hybridloop.run(main())
        """
    )
    assert (done.stdout, done.stderr) == ("end\n", "")


def test_a_library_completes_calls_while_the_process_ends(token_library, run_script):
    done = run_script(
        f"""
        import hybridloop
        hybridloop.load_kernels({str(token_library)!r})

        async def main():
            loop = asyncio.get_running_loop()
            hybridloop.jobs = [loop.run_native("tokens.echo", bytes(9)) for _ in range(5000)]
            await hybridloop.jobs[0]
            print("end", flush=True)

        hybridloop.run(main())
        """
    )
    assert (done.stdout, done.stderr) == ("end\n", "")


def test_a_library_completes_calls_when_the_interpreter_is_gone(token_library, run_script):
    done = run_script(
        f"""
        import hybridloop
        from hybridloop._core import NativeEngine
        hybridloop.load_kernels({str(token_library)!r})
        NativeEngine(native_threads=1).run_native("tokens.complete_later").result(100)
        engines = [NativeEngine(native_threads=1) for _ in range(2)]
        data, kept = bytearray(1000), []

        def keep(engine):
            # One has nothing but the library, others keep Python's memory.
            engine.run_native("tokens.keep", bytes(1000))
            kept.append(engine.run_native("tokens.keep", bytes(1 << 20), key="kept"))
            kept.append(engine.run_native("tokens.fill_later", bytearray(1000)))
            kept[-1].add_done_callback(print)
            kept.append(engine.run_native_many("tokens.keep", [(1,), (b"bytes",)]))

        async def main():
            keep(engines[0])
            while engines[0].stats()["pending"] < 5:
                await asyncio.sleep(0.001)

        for factory in (hybridloop.new_event_loop, asyncio.SelectorEventLoop):
            loop = factory()
            loop.run_until_complete(main())
            engines.reverse()
            # One of them stays open.
            if factory is hybridloop.new_event_loop:
                loop.close()
            kept.append(loop)
        keep(engines[0])
        while engines[0].stats()["pending"] < 10:
            time.sleep(0.001)
        print("end", flush=True)
        """,
        PYTHONWARNINGS="ignore",
    )
    assert (done.stdout, done.stderr) == ("end\ncompleted\n", "")


def test_the_child_of_a_fork_has_no_call_of_its_parent(token_library, run_script):
    done = run_script(
        f"""
        import os, warnings, hybridloop
        from hybridloop._core import NativeEngine
        hybridloop.load_kernels({str(token_library)!r})
        engine = NativeEngine(native_threads=1)
        job = engine.run_native("tokens.keep", 4)
        while engine.stats()["pending"] < 1:
            time.sleep(0.001)
        warnings.simplefilter("ignore")  # that this process has threads
        if (pid := os.fork()) == 0:
            try:
                job.result(100)
            except hybridloop.NativeClosedError:
                assert not job.cancel() and not job.running() and engine.close() == []
                own = NativeEngine(native_threads=1)
                assert own.run_native("hl.crc32", b"x").result(100) == 2363233923
                del job
                print("child", flush=True)
                os._exit(own.close(100.0) != [])
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert engine.run_native("tokens.release").result(100) == 1
        print("parent", job.result(100))
        """
    )
    assert (done.stdout, done.stderr) == ("child\nparent 4\n", "")
