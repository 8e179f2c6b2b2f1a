"""Who may do what on the memory bus, cell by cell, with kernels on the native side.

operation                            kernels                    Python
push, the key is absent              create                     create
push, the key is there               overwrite                  refused, nothing changes
get                                  a view, nothing changes    a snapshot, nothing changes
pop                                  takes it away              a snapshot, nothing changes
read while a kernel writes the key   allowed                    refused
push while a kernel writes the key   allowed                    refused
remove                               pop                        never
"""

import asyncio
import collections
import contextlib
import itertools
import threading
import time
import zlib

import numpy
import pytest

from hybridloop import (
    BusBusyError,
    BusKeyExistsError,
    Channel,
    NativeBuffer,
    load_kernels,
)
from hybridloop._core import NativeEngine
from tests import memory

from .support import LIMIT

pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.usefixtures("clean_end")]


@pytest.fixture(scope="module", autouse=True)
def bus_kernels(compile_c):
    load_kernels(compile_c("bus"), replace=True)


@pytest.fixture
def engine(loop):
    """Eight workers, and the loop's own: as many kernels as a test has run at a time."""
    engine = loop.native_engine = NativeEngine(native_threads=8)
    yield engine
    assert engine.close(LIMIT) == []


@pytest.fixture
def native(loop, engine):
    """Run a kernel of `kernels/bus.c` by the last part of its name."""
    return lambda name, *args, **kwargs: loop.run_native(f"bus.{name}", *args, **kwargs)


@pytest.fixture
def writing(native):
    """A context in which a kernel writes a key, and has written the first half."""

    @contextlib.asynccontextmanager
    async def writing(key, data, *, seal=True):
        opened, gate = Channel(), Channel()
        job = native("hold", key, data, opened, gate, seal)
        assert await opened.get(LIMIT) == "opened"
        try:
            yield
        finally:
            gate.push(None)
            await job

    return writing


async def test_a_kernel_pushes_what_is_absent(native, bus):
    await native("push", "key", b"native")
    assert bus.get("key") == b"native"


async def test_python_pushes_what_is_absent(native, bus):
    bus.push("key", b"python")
    assert await native("get", "key") == b"python"


async def test_a_kernel_overwrites_what_is_there(native, bus):
    bus.push("key", b"python")
    await native("push", "key", b"native")
    assert bus.get("key") == b"native"
    await native("push", "key", b"again")
    assert bus.get("key") == b"again"


async def test_python_does_not_overwrite_what_is_there(native, bus):
    await native("push", "key", b"native")
    with pytest.raises(BusKeyExistsError):
        bus.push("key", b"python")
    assert bus.try_push("key", b"python") is False
    assert bus.get("key") == b"native"


async def test_a_kernel_gets_a_view_and_changes_nothing(native, bus):
    bus.push("key", b"value")
    view = await native("get", "key")
    assert isinstance(view, NativeBuffer)
    assert view == await native("get", "key") == b"value"
    # The block itself, not a copy.
    assert numpy.shares_memory(numpy.asarray(view), numpy.asarray(bus.get("key")))
    with pytest.raises(KeyError):
        await native("get", "other")


async def test_python_gets_a_snapshot_and_changes_nothing(native, bus):
    await native("push", "key", b"value")
    assert bus.get("key") == bus.get("key") == b"value"
    assert await native("get", "key") == b"value"


async def test_a_kernel_pops_and_the_key_is_gone(native, bus):
    bus.push("key", b"value")
    assert await native("pop", "key") == b"value"
    assert "key" not in bus
    with pytest.raises(KeyError):
        await native("pop", "key")
    with pytest.raises(KeyError):
        bus.get("key")
    bus.push("key", b"another")


async def test_python_pops_a_snapshot_and_the_key_stays(native, bus):
    await native("push", "key", b"value")
    assert bus.pop("key") == bus.pop("key") == b"value"
    assert "key" in bus
    assert await native("pop", "key") == b"value"


async def test_a_kernel_reads_while_another_writes(native, writing, bus):
    bus.push("key", b"old")
    async with writing("key", b"new"):
        assert await native("get", "key") == b"old"
    assert await native("get", "key") == b"new"


async def test_python_is_refused_while_a_kernel_writes(writing, bus):
    bus.push("key", b"old")
    async with writing("key", b"new"):
        assert bus.busy("key")
        for read in (bus.get, bus.pop):
            with pytest.raises(BusBusyError):
                read("key")
        assert "key" in bus
        assert bus.stats()["busy"] == 2
        # Only that key is busy.
        bus.push("other", b"value")
        assert bus.get("other") == b"value"
        assert not bus.busy("other")
    assert not bus.busy("key")
    assert bus.get("key") == b"new"


async def test_a_kernel_pushes_and_pops_while_another_writes(native, writing, bus):
    async with writing("key", b"first"):
        await native("push", "key", b"second")
        assert await native("pop", "key") == b"second"
    assert bus.get("key") == b"first"  # what is sealed last is there


async def test_python_does_not_push_while_a_kernel_writes(writing, bus):
    async with writing("key", b"native"):
        with pytest.raises(BusBusyError):
            bus.push("key", b"python")
        assert bus.try_push("key", b"python") is False
        assert "key" not in bus
    assert bus.get("key") == b"native"


async def test_unsealed_writes_are_not_visible(writing, bus):
    async with writing("key", b"half", seal=False):
        assert "key" not in bus
        assert bus.keys() == []
    assert not bus.busy("key")
    with pytest.raises(KeyError):
        bus.get("key")
    assert bus.stats()["bytes"] == 0


async def test_python_never_removes(bus):
    bus.push("key", b"value")
    assert not hasattr(bus, "remove")
    assert not hasattr(bus, "discard")
    with pytest.raises(TypeError):
        del bus["key"]
    bus.pop("key")
    assert bus.get("key") == b"value"


async def test_python_may_schedule_a_kernel_that_removes(loop, engine, bus):
    bus.push("key", b"value")
    assert await loop.run_native("hl.bus.discard", "key") is True
    assert "key" not in bus
    assert await loop.run_native("hl.bus.discard", "key") is False
    bus.push("key", b"another")


async def test_wait_resumes_when_a_kernel_has_sealed(native, writing, bus):
    bus.push("key", b"old")
    async with writing("key", b"new"):
        waiting = asyncio.ensure_future(bus.wait("key", LIMIT))
        await asyncio.sleep(0.001)
        assert not waiting.done()
    assert await waiting == b"new"
    waiting = asyncio.ensure_future(bus.wait("later", LIMIT))
    await asyncio.sleep(0)
    await native("push", "later", b"value")
    assert await waiting == b"value"


async def test_wait_resumes_when_a_kernel_gives_up(writing, bus):
    bus.push("key", b"old")
    async with writing("key", b"new", seal=False):
        waiting = asyncio.ensure_future(bus.wait("key", LIMIT))
        await asyncio.sleep(0.001)
        assert not waiting.done()
    assert await waiting == b"old"


async def test_T0_5_of_eight_kernels_that_pop_one_wins(native, bus):
    for i in range(200):
        bus.push(f"key{i}", b"%d" % i)
        got = await asyncio.gather(*(native("race", f"key{i}", 8) for _ in range(8)))
        winners = [block for block in got if block is not None]
        assert winners == [b"%d" % i]
        assert f"key{i}" not in bus
    assert bus.stats()["pops"] == 200


@pytest.mark.skipif(not memory.available, reason="asks glibc what is in use")
@pytest.mark.timeout(300, method="signal")
async def test_T0_6_keys_of_jobs_go_with_the_jobs(loop, native, engine, bus):
    each, data, sizes = 500, bytes(64), []
    for rounds in range(2000):
        job = native("own", each, data)
        number = await job
        if rounds % 500 == 0:
            assert len(bus) == each
            assert bus.get(f"job:{number}:".encode() + bytes(8)) == data
        del job
        if rounds % 100 == 99:
            # The engine drops the job shortly after it has posted its end.
            deadline = time.monotonic() + LIMIT
            while len(bus) or engine.stats()["memory"]:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.001)
            sizes.append(memory.in_use())
    assert engine.stats()["memory"] == 0
    assert bus.stats()["writes"] == 1_000_000
    # What is there after a tenth of the keys is enough for the others.
    assert max(sizes[2:]) - sizes[1] < 8 << 20, sizes


async def test_T0_7_a_view_outlives_what_happens_to_the_key(loop, native, engine, bus):
    bus.push("key", b"old" * 1000)
    views = [bus.get("key"), memoryview(bus.get("key")), await native("get", "key")]
    array = numpy.frombuffer(bus.get("key"), "S3")
    await native("push", "key", b"new" * 1000)
    assert all(view == b"old" * 1000 for view in views)
    popped = await native("pop", "key")
    assert popped == b"new" * 1000
    assert all(view == b"old" * 1000 for view in views)
    assert engine.stats()["memory"] == 6000
    assert engine.close(LIMIT) == []
    assert all(view == b"old" * 1000 for view in views)
    assert set(array) == {b"old"}
    views.clear()
    assert engine.stats()["memory"] == 6000
    del popped
    await asyncio.sleep(0)  # the loop is done with the job after this iteration
    assert engine.stats()["memory"] == 3000
    del array
    assert engine.stats()["memory"] == 0


KEYS = [f"k{i}" for i in range(4)]


class Readers:
    """Threads of Python that read a bus and check each block."""

    def __init__(self, count):
        self.bus = None
        self.counts = collections.Counter()
        self.going = threading.Event()
        self.ended = False
        self.threads = [threading.Thread(target=self.read) for _ in range(count)]

    def read(self):
        counts = collections.Counter()
        keys = itertools.cycle(KEYS)
        while not self.ended:
            bus = self.bus
            for key in itertools.islice(keys, 100):
                try:
                    block = memoryview(bus.get(key))
                except BusBusyError:
                    counts["busy"] += 1
                except KeyError:
                    counts["absent"] += 1
                else:
                    counts["read"] += 1
                    counts["torn"] += zlib.crc32(block[4:]) != int.from_bytes(block[:4], "little")
        self.counts += counts

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended = True
        for thread in self.threads:
            thread.join()


def percentile(histogram, share):
    """The upper end of the bucket, in nanoseconds: 16 of them for each power of two."""
    place = int(numpy.searchsorted(numpy.cumsum(histogram), share * histogram.sum()))
    power, part = divmod(place, 16)
    return 2 ** (power - 4) * (16 + part + 1)


def quiet(rounds):
    """What the quieter rounds say: other programs make a round slower, never faster."""
    return float(numpy.quantile(rounds, 0.1))


def ratio(measured, baseline):
    return quiet(measured) / quiet(baseline)


@pytest.mark.timeout(300, method="signal")
def test_T0_4_writers_and_readers_at_a_time(loop, native, engine, bus):
    """Eight kernels write for ten seconds while four threads of Python read.

    No reader sees half a block, and the kernels do not notice the readers: what they are compared
    with is the same threads reading another bus, because both share the processors.
    """
    elsewhere = NativeEngine()
    block = b"".join((zlib.crc32(b"block" * 20).to_bytes(4, "little"), b"block" * 20))
    for key in KEYS:
        elsewhere.bus.push(key, block)
    seeds = itertools.count(1)

    def storm(seconds):
        jobs = [native("storm", int(seconds * 1e9), next(seeds), len(KEYS)) for _ in range(8)]
        results = loop.run_until_complete(asyncio.gather(*jobs))
        return sum(numpy.asarray(result) for result in results)

    totals, disturbed, alone, with_readers = numpy.zeros(3, int), [], [], 0.0
    readers = Readers(4)
    readers.bus = elsewhere.bus
    with readers:
        storm(0.2)
        # Rounds are short and take turns, because what else the machine does changes. With few
        # processors readers seldom meet a writer.
        deadline = time.monotonic() + 2 * LIMIT
        while with_readers < 10 or (not bus.stats()["busy"] and time.monotonic() < deadline):
            for bus_to_read, results in ((bus, disturbed), (elsewhere.bus, alone)):
                readers.bus = bus_to_read
                result = storm(0.25)
                totals += result[:3]
                results.append(percentile(result[3:], 0.99))
            with_readers += 0.25
    written, checked, torn = totals
    print(f"{written} written, {checked} checked by kernels, {readers.counts}")
    print("p99 of a push, ns:", quiet(disturbed), "alone", quiet(alone))
    assert (torn, readers.counts["torn"]) == (0, 0)
    assert written > 10_000
    assert checked > 100
    assert readers.counts["read"] > 10_000
    assert readers.counts["busy"] > 0
    assert bus.stats()["busy"] > 0
    # A push that waits for a reader waits for a thread of Python: a hundred times as long and more.
    assert ratio(disturbed, alone) <= 10, (disturbed, alone)
    elsewhere.close()
