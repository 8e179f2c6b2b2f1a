"""The memory bus as Python sees it: what may be done, with what, and waiting for a key."""

import asyncio
import contextlib
import threading

import pytest

import hybridloop
from hybridloop import (
    BusBusyError,
    BusClosedError,
    BusError,
    BusFullError,
    BusKeyError,
    BusKeyExistsError,
    NativeBuffer,
)
from hybridloop._core import NativeEngine

from .support import LIMIT

pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.usefixtures("clean_end")]


def test_push_and_get(bus):
    bus.push("key", b"value")
    assert isinstance(bus.get("key"), NativeBuffer)
    assert bus.get("key") == b"value"
    assert "key" in bus
    assert "other" not in bus
    assert len(bus) == 1
    assert bus.keys() == ["key"]
    assert not bus.busy("key")
    assert not bus.busy("other")
    assert repr(bus) == f"<Bus of 1 keys, 5 of {256 << 20} bytes>"


def test_keys_are_text_or_bytes(bus):
    bus.push("ä", b"1")
    bus.push(b"\xff\0", b"2")
    bus.push(b"plain", b"3")
    assert bus.get("ä".encode()) == b"1"
    assert bus.get("plain") == b"3"
    assert sorted(bus.keys(), key=str) == [b"\xff\0", "plain", "ä"]
    assert b"\xff\0" in bus


@pytest.mark.parametrize("key", [None, 1, bytearray(b"key"), ("key",)])
def test_other_keys_are_refused(bus, key):
    for use in (bus.get, bus.pop, bus.busy, bus.wait, bus.__contains__):
        with pytest.raises(TypeError, match="str or bytes"):
            use(key)
    for use in (bus.push, bus.try_push):
        with pytest.raises(TypeError, match="str or bytes"):
            use(key, b"value")


@pytest.mark.parametrize(
    ("key", "words"),
    [("", "empty"), ("k" * 256, "255"), ("ä" * 128, "255"), ("job:1:mine", "belong to jobs")],
)
def test_bad_keys_are_refused(bus, key, words):
    for push in (bus.push, bus.try_push):
        with pytest.raises(BusKeyError, match=words) as caught:
            push(key, b"value")
        assert isinstance(caught.value, BusError)
        assert isinstance(caught.value, ValueError)
    with pytest.raises(KeyError):
        bus.get(key)
    assert key not in bus
    assert len(bus) == 0


def test_the_longest_key_is_taken(bus):
    bus.push("k" * 255, b"value")
    assert bus.get("k" * 255) == b"value"


@pytest.mark.parametrize(
    "data",
    [b"abc", bytearray(b"abc"), memoryview(b"xabcx")[1:4]],
)
def test_whatever_has_bytes_is_taken(bus, data):
    bus.push("key", data)
    bus.push("size", data, 2)
    bus.push("none", data, size=0)
    assert (bus.get("key"), bus.get("size"), bus.get("none")) == (b"abc", b"ab", b"")


def test_what_has_no_contiguous_bytes_is_not(bus):
    with pytest.raises(BufferError):
        bus.push("key", memoryview(b"abcd")[::2])
    with pytest.raises(TypeError, match="bytes-like"):
        bus.push("key", "text")
    with pytest.raises(ValueError, match="only 3 bytes"):
        bus.push("key", b"abc", 4)
    with pytest.raises(OverflowError):
        bus.push("key", b"abc", -1)
    assert len(bus) == 0


def test_data_is_copied(bus):
    data = bytearray(b"old")
    bus.push("key", data)
    data[:] = b"new"
    data.extend(b"and longer")
    assert bus.get("key") == b"old"


def test_a_full_bus_refuses():
    engine = NativeEngine(bus_capacity=1000)
    bus = engine.bus
    bus.push("one", bytes(600))
    for push in (bus.push, bus.try_push):
        with pytest.raises(BusFullError, match="401 bytes do not fit on the bus: 600 of 1000"):
            push("two", bytes(401))
    assert bus.keys() == ["one"]
    bus.push("two", bytes(400))
    assert bus.stats()["bytes"] == 1000
    assert engine.close() == []
    assert engine.stats()["memory"] == 0


@pytest.mark.parametrize("policy", ["error", "evict"])
def test_many_keys_fill_the_bus_too(policy):
    engine = NativeEngine(native_threads=1, bus_capacity=1 << 20, bus_policy=policy)
    bus, pushed = engine.bus, 0
    with contextlib.suppress(BusFullError):
        while pushed < 20_000:
            bus.push(f"{pushed}", b"")
            pushed += 1
    assert (pushed == 20_000) == (policy == "evict")
    assert 1024 < len(bus) < 10_000
    assert bus.stats()["bytes"] <= 1 << 20
    calls = [(key,) for key in bus.keys()]  # noqa: SIM118 (no mapping)
    engine.run_native_many("hl.bus.discard", calls).result(LIMIT)
    assert (len(bus), bus.stats()["bytes"]) == (0, 0)
    assert engine.close(LIMIT) == []
    assert engine.stats()["memory"] == 0


def test_an_evicting_bus_makes_room():
    engine = NativeEngine(bus_capacity=1000, bus_policy="evict")
    bus = engine.bus
    viewed = []
    for i in range(10):
        bus.push(f"{i}", bytes(100))
    viewed.append(bus.get("0"))
    bus.get("1")
    bus.push("new", bytes(300))
    assert "0" in bus
    assert "1" in bus
    assert "2" not in bus
    assert bus.stats()["evictions"] >= 3
    assert bus.stats()["bytes"] <= 1000
    with pytest.raises(BusFullError):
        bus.push("large", bytes(1001))
    assert "new" in bus
    engine.close()


def test_memory_is_limited_by_the_engine():
    engine = NativeEngine(bus_capacity=10_000, memory=1000)
    with pytest.raises(MemoryError):
        engine.bus.push("key", bytes(1001))
    assert len(engine.bus) == 0
    engine.bus.push("key", bytes(1000))
    assert engine.stats()["memory"] == 1000
    engine.close()


def test_counts(bus):
    bus.push("one", b"123")
    bus.try_push("one", b"123")
    bus.try_push("two", b"4567")
    bus.get("one")
    bus.pop("two")
    with pytest.raises(KeyError):
        bus.get("three")
    assert bus.stats() == {
        "keys": 2,
        "bytes": 7,
        "capacity": 256 << 20,
        "writes": 2,
        "reads": 2,
        "pops": 0,
        "evictions": 0,
        "busy": 0,
    }


def test_of_many_threads_that_push_one_wins(bus):
    for i in range(50):
        barrier, won = threading.Barrier(8), []

        def push(who, key=f"key{i}", barrier=barrier, won=won):
            barrier.wait()
            with contextlib.suppress(BusKeyExistsError):
                while True:
                    with contextlib.suppress(BusBusyError):
                        bus.push(key, bytes([who]) * 1000)
                        won.append(who)
                        break

        threads = [threading.Thread(target=push, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert bus.get(f"key{i}") == bytes(won) * 1000


def test_the_seeds_names_are_there(loop, engine):
    loop.native_engine = engine
    loop.memory_bus_push("key", b"value")
    loop.memory_bus_push("part", b"value", 3)
    assert loop.memory_bus_pop("key") == loop.memory_bus_pop("key") == b"value"
    assert loop.bus.get("part") == b"val"
    with pytest.raises(BusKeyExistsError):
        loop.memory_bus_push("key", b"other")


def test_errors_say_which_key(bus):
    bus.push("key", b"value")
    with pytest.raises(BusKeyExistsError, match="the key 'key' exists") as caught:
        bus.push("key", b"value")
    assert caught.value.key == "key"
    with pytest.raises(KeyError) as caught:
        bus.get(b"other")
    assert caught.value.args == (b"other",)
    assert str(BusBusyError("key")).startswith("a kernel is writing the key 'key';")


async def test_wait_gives_what_is_there(loop, bus):
    bus.push("key", b"value")
    assert await bus.wait("key") == b"value"
    assert await bus.wait("key", timeout=0) == b"value"
    assert await bus.wait(b"key", 0) == b"value"


async def test_wait_resumes_when_the_key_is_sealed(loop, bus):
    waiting = [asyncio.ensure_future(bus.wait("key", LIMIT)) for _ in range(3)]
    await asyncio.sleep(0)
    await loop.run_in_executor(None, bus.push, "other", b"nothing")
    assert not any(task.done() for task in waiting)
    await loop.run_in_executor(None, bus.push, "key", b"value")
    assert await asyncio.gather(*waiting) == [b"value"] * 3


async def test_wait_gives_up_after_its_time(loop, bus):
    for timeout in (0, 0.001):
        with pytest.raises(TimeoutError):
            await bus.wait("key", timeout)
    bus.push("key", b"value")
    assert await bus.wait("key", 1) == b"value"


async def test_a_cancelled_wait_is_taken_back(loop, bus):
    waiting = asyncio.ensure_future(bus.wait("key"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bus.push("key", b"value")
    assert await bus.wait("key") == b"value"


async def test_wait_ends_when_the_bus_is_closed(loop):
    engine = NativeEngine()
    waiting = asyncio.ensure_future(engine.bus.wait("key"))
    await asyncio.sleep(0)
    assert engine.close() == []
    with pytest.raises(BusClosedError):
        await waiting
    with pytest.raises(BusClosedError):
        await engine.bus.wait("key")


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_wait_refuses_bad_keys_at_once(bus, key):
    with pytest.raises(BusKeyError):
        bus.wait(key)


def test_wait_works_on_loops_of_others(bus):
    async def main():
        waiting = asyncio.ensure_future(bus.wait("key", LIMIT))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, bus.push, "key", b"value")
        return await waiting

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(main()) == b"value"


async def test_two_loops_wait_for_one_key(loop, bus):
    def other():
        with asyncio.Runner(loop_factory=hybridloop.new_event_loop) as runner:
            return runner.run(bus.wait("key", LIMIT))

    there = loop.run_in_executor(None, other)
    here = asyncio.ensure_future(bus.wait("key", LIMIT))
    await asyncio.sleep(0.001)
    bus.push("key", b"value")
    assert await asyncio.gather(here, there) == [b"value", b"value"]
