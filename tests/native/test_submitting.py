"""What `run_native()` takes and what it refuses; who comes first."""

import asyncio
import functools
import hashlib
import sys
import zlib

import pytest

from hybridloop import NativeQueueFullError

from .support import LIMIT, run, until

pytestmark = pytest.mark.improves_on_asyncio


def test_priorities_come_first(single):
    async def main():
        loop = asyncio.get_running_loop()
        loop.native_engine = single
        order = []
        running = loop.run_native("hl.sleep", LIMIT)
        await until(running.running)
        for priority in (0, -1, 5):
            job = loop.run_native("hl.noop", priority=priority)
            job.add_done_callback(lambda _, priority=priority: order.append(priority))
        running.cancel()
        await until(lambda: len(order) == 3)
        assert order == [5, 0, -1]

    run(main())


def test_every_priority_runs_and_others_are_refused_by_name(single):
    async def main():
        loop = asyncio.get_running_loop()
        loop.native_engine = single
        running = loop.run_native("hl.sleep", LIMIT)
        await until(running.running)
        order = []
        for priority in (-(2**31), 2**31 - 1, 0):
            job = loop.run_native("hl.noop", priority=priority)
            job.add_done_callback(lambda _, priority=priority: order.append(priority))
        running.cancel()
        await until(lambda: len(order) == 3)
        assert order == [2**31 - 1, 0, -(2**31)]
        for submit in [
            functools.partial(loop.run_native, "hl.noop"),
            functools.partial(loop.run_native_many, "hl.noop", [()]),
        ]:
            for priority in (-(2**31) - 1, 2**31, 10**30):
                with pytest.raises(
                    OverflowError, match=f"priority must be an int from .*{priority}"
                ):
                    submit(priority=priority)
            for name in ("priority", "timeout"):
                with pytest.raises(TypeError, match=f"{name} must be .*, not str"):
                    submit(**{name: "1"})
            with pytest.raises(OverflowError, match="timeout"):
                submit(timeout=10**400)

    run(main())


def test_a_size_of_the_bus_is_refused_by_name(engine):
    for size in (-1, 2**64):
        with pytest.raises(OverflowError, match="size must be an int from 0"):
            engine.bus.push("key", b"data", size)


def test_a_full_queue_refuses_and_keeps_nothing(single):
    async def main():
        loop = asyncio.get_running_loop()
        loop.native_engine = single
        running = loop.run_native("hl.sleep", LIMIT)
        # One that begins is counted as queued for a moment yet.
        await until(lambda: running.running() and single.stats()["queued"] == 0)
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
