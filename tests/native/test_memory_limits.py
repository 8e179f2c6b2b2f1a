"""What a caller, a hash or a kernel sizes counts towards limits, and fails without an abort."""

import asyncio
import itertools
import subprocess
import sys
import textwrap

import pytest

from hybridloop import Channel, NativeQueueFullError
from hybridloop._core import NativeEngine

from .support import LIMIT, run, until

pytestmark = pytest.mark.improves_on_asyncio

MIB = 1 << 20


@pytest.fixture
def small():
    """An engine whose jobs may allocate 1 MiB each, and 4 MiB together."""
    engine = NativeEngine(native_threads=2, memory=4 * MIB, job_memory=MIB)
    yield engine
    assert engine.close(LIMIT) == []


def used(engine):
    return engine.stats()["memory"]


@pytest.mark.parametrize("memory", [2**32 - 1, 2 * MIB, 2000])
def test_memory_that_a_password_hash_asks_for_counts(small, memory):
    salt, output = "c29tZXNhbHQ", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI"
    hash = f"$argon2id$v=19$m={memory},t=1,p=1${salt}${output}"
    with pytest.raises((MemoryError, ValueError)):
        small.run_native("hl.argon2id.verify", b"password", hash).result(LIMIT)
    with pytest.raises((MemoryError, ValueError)):
        small.run_native("hl.argon2id.hash", b"password", memory, 1).result(LIMIT)
    hash = small.run_native("hl.argon2id.hash", b"password", 1000, 1).result(LIMIT)
    assert small.run_native("hl.argon2id.verify", b"password", hash).result(LIMIT)
    assert not small.run_native("hl.argon2id.verify", b"passwort", hash).result(LIMIT)
    assert small.close(LIMIT) == []
    assert used(small) == 0


@pytest.mark.usefixtures("job_kernels")
class TestQueues:
    def test_items_that_nobody_takes_count(self, small):
        async def main():
            job = small.run_native("jobs.emit", 1 << 40)
            with pytest.raises(MemoryError):
                await job
            assert 0 < used(small) <= MIB
            got = []
            with pytest.raises(MemoryError):
                async for item in job:
                    got.append(item)
            assert got == list(range(len(got)))
            assert len(got) > 1000
            await until(lambda: used(small) == 0)

        run(main())

    def test_items_that_are_dropped_with_their_job_count_no_longer(self, small):
        async def main():
            job = small.run_native("jobs.emit", 100)
            await job
            assert used(small) > 0
            del job
            await until(lambda: used(small) == 0)

        run(main())

    def test_items_that_are_taken_leave_room_for_more(self, small):
        async def main():
            count = 0
            try:
                async for item in small.run_native("jobs.emit", 50_000):
                    assert item == count
                    count += 1
            except MemoryError:  # the kernel was faster
                assert count > 1000
            else:
                assert count == 50_000
            await until(lambda: used(small) == 0)

        run(main())

    def test_a_loop_goes_on_while_a_kernel_emits(self, engine):
        async def main():
            job = engine.run_native("jobs.emit_waits", 1 << 40)
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0)

            ticker = asyncio.create_task(tick())
            async for item in job:
                if item >= 20_000:
                    break
            assert ticks >= 10
            ticker.cancel()
            job.cancel()

        run(main())

    def test_values_that_a_kernel_pushes_to_a_channel_count(self, small):
        channel = Channel()
        with pytest.raises(MemoryError):
            small.run_native("jobs.push", channel, 1 << 40).result(LIMIT)
        assert 0 < used(small) <= MIB
        count = len(channel)
        assert channel.pop() == 0
        assert channel.drain() == list(range(1, count))
        run(until(lambda: used(small) == 0))
        small.run_native("jobs.push", channel, 100).result(LIMIT)
        assert channel.flush() == 100
        run(until(lambda: used(small) == 0))
        channel.close()

    def test_all_jobs_together_have_the_limit_of_the_engine(self, small):
        channel = Channel()
        for _ in range(5):
            with pytest.raises(MemoryError):
                small.run_native("jobs.push", channel, 1 << 40).result(LIMIT)
        assert 3 * MIB < used(small) <= 4 * MIB
        channel.flush()

    def test_what_the_host_notes_for_a_kernel_counts(self, small):
        with pytest.raises(MemoryError):
            small.run_native("jobs.ask", 1 << 40).result(LIMIT)
        small.bus.push("key", b"value")
        with pytest.raises(MemoryError):
            small.run_native("jobs.ask", 1 << 40, "key").result(LIMIT)
        small.run_native("jobs.ask", 100, "key").result(LIMIT)
        run(until(lambda: used(small) == len(b"value")))


def test_an_endless_batch_is_refused():
    engine = NativeEngine(native_threads=1, max_native_queue=1000)
    taken = itertools.count()
    with pytest.raises(NativeQueueFullError, match="no room for 1001 calls.* limit is 1000"):
        engine.run_native_many("hl.noop", (() for _ in taken))
    assert next(taken) <= 1002
    assert len(engine.run_native_many("hl.noop", [()] * 1000).result(LIMIT)) == 1000
    assert engine.close(LIMIT) == []


HEAD = """
import asyncio, itertools, resource, socket, sys
import hybridloop
from hybridloop import Channel
from hybridloop._core import NativeEngine


def limit_memory(more):
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def refused(function, *args):
    try:
        while True:
            function(*args)
    except MemoryError:
        pass

"""
PROGRAMS = {
    "channel": """
        channel = Channel()
        limit_memory(50 << 20)
        for value in [1, 0.5, "text" * 20, b"bytes" * 20, "t" * 100_000, b"b" * 100_000]:
            refused(channel.push, value)
            count = len(channel)
            assert count
            assert channel.flush() == count
            channel.push(value)
            assert len(channel.drain()) == 1
    """,
    "writelines": """
        async def main():
            ours, peer = socket.socketpair()
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
            limit_memory(50 << 20)
            for pieces in [[b"x" * 100] * 1000, [bytearray(3000)] * 1000]:
                refused(transport.writelines, pieces)
            refused(transport.write, bytearray(100))
            transport.abort()
            peer.close()

        hybridloop.run(main())
    """,
    "items": """
        hybridloop.load_kernels(sys.argv[1])

        async def main():
            engine = NativeEngine(native_threads=1)
            await engine.run_native("hl.noop")
            limit_memory(100 << 20)
            job = engine.run_native("jobs.emit", 1 << 40)
            try:
                await job
            except MemoryError:
                pass
            else:
                raise AssertionError
            del job
            await engine.run_native("hl.noop")

        hybridloop.run(main())
    """,
    "batch": """
        engine = NativeEngine(native_threads=1, max_native_queue=1 << 40)
        engine.run_native("hl.noop").result()
        limit_memory(100 << 20)
        refused(engine.run_native_many, "hl.noop", (() for _ in itertools.repeat(0)))
        engine.run_native("hl.noop").result()
    """,
    "argon2": """
        engine = NativeEngine(native_threads=1)
        engine.run_native("hl.noop").result()
        limit_memory(200 << 20)
        job = engine.run_native("hl.argon2id.hash", b"password", 250_000, 1)
        refused(job.result)
    """,
}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and RLIMIT_AS")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_process_without_memory_raises_memory_errors(name, job_library):
    program = HEAD + textwrap.dedent(PROGRAMS[name])
    command = [sys.executable, "-c", program, str(job_library)]
    done = subprocess.run(command, timeout=300, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
