"""Large blocks are copied while other threads of Python run; small ones at once."""

import itertools
import sys
import time

import pytest

from hybridloop import BusKeyExistsError, Channel
from hybridloop._core import NativeEngine

from .support import LIMIT

pytestmark = [
    pytest.mark.improves_on_asyncio,
    pytest.mark.usefixtures("clean_end"),
    pytest.mark.skipif(
        not getattr(sys, "_is_gil_enabled", lambda: True)(),
        reason="threads run at any time without a global interpreter lock",
    ),
]

LARGE = 32 << 20


def runs_meanwhile(ticks, call):
    """Whether the other thread has run while one of many calls was under way."""
    # Up to here it waits for the first time that this thread gives the interpreter away.
    until = time.monotonic() + 30
    while time.monotonic() < until:
        before = len(ticks)
        call()
        if len(ticks) > before:
            return True
        time.sleep(0.001)
    return False


def makes_of(data):
    return {"bytes": bytes(data), "bytearray": bytearray(data), "memoryview": memoryview(data)}


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview"])
def test_bus_push(ticks, kind):
    engine = NativeEngine(native_threads=1, bus_capacity=4 * LARGE, bus_policy="evict")
    bus, keys = engine.bus, map(str, itertools.count())
    data = makes_of(bytes(range(256)) * (LARGE // 256))[kind]
    last = ""

    def push():
        nonlocal last
        last = next(keys)
        bus.push(last, data)

    assert runs_meanwhile(ticks, push)
    assert bus.get(last) == data
    with pytest.raises(BusKeyExistsError):
        bus.push(last, data)
    assert bus.try_push(last, data, 1 << 20) is False
    assert engine.close(LIMIT) == []


def test_channels_take_and_give(ticks):
    channel = Channel()
    data = bytes(range(256)) * (LARGE // 256)
    for value in (data, bytearray(data), "text" * (LARGE // 4)):

        def there_and_back(value=value):
            channel.push(value)
            assert channel.pop() == value

        assert runs_meanwhile(ticks, there_and_back)


def test_bytes_of_a_buffer(ticks):
    channel = Channel()
    data = bytes(range(256)) * (LARGE // 256)
    channel.push(data)
    buffer = channel.pop()
    copies = []
    assert runs_meanwhile(ticks, lambda: copies.append(bytes(buffer)))
    assert copies[-1] == data
    assert hash(buffer) == hash(data)
    assert runs_meanwhile(ticks, buffer.tobytes)


def test_small_blocks_are_copied_at_once(ticks):
    """Not even a thread that waits for the interpreter gets it: that takes longer than to copy."""
    engine, channel, small = NativeEngine(native_threads=1), Channel(), bytes(32 << 10)
    bus = engine.bus
    before = len(ticks)
    for number in range(100):
        bus.push(str(number), small)
        assert bytes(bus.get(str(number))) == small
        channel.push(small)
        assert channel.pop().tobytes() == small
    assert len(ticks) == before
    assert engine.close(LIMIT) == []


@pytest.mark.parametrize("size", [(64 << 10) - 1, 64 << 10, (64 << 10) + 1])
def test_sizes_about_the_limit(size):
    engine, channel = NativeEngine(native_threads=1), Channel()
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    engine.bus.push("key", data)
    channel.push(bytearray(data))
    for buffer in (engine.bus.get("key"), channel.pop()):
        assert bytes(buffer) == buffer.tobytes() == data
        assert buffer == data
        assert hash(buffer) == hash(data)
    del buffer
    assert engine.close(LIMIT) == []
    assert engine.stats()["memory"] == 0
