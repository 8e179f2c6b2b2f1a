"""Channels: thread-safe lists of copies, and their waiters.

A private attribute of asyncio's tasks suppresses a warning.
"""

import asyncio
import collections
import gc
import random
import threading
import time

import pytest
import uvloop

import hybridloop
from hybridloop import Channel, ChannelClosedError, ChannelFullError

from .support import LIMIT

pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.usefixtures("clean_end")]

ORDERS = ("fifo", "lifo")


@pytest.fixture(scope="module", autouse=True)
def uvloops_own_descriptors():
    """uvloop opens a pipe with its first loop, for good."""
    uvloop.new_event_loop().close()


@pytest.fixture(params=["hybridloop", "asyncio", "uvloop"])
def any_loop(request):
    """Waiting works on loops of others as well."""
    factories = {
        "hybridloop": hybridloop.new_event_loop,
        "asyncio": asyncio.SelectorEventLoop,
        "uvloop": uvloop.new_event_loop,
    }
    loop = factories[request.param]()
    yield loop
    loop.close()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -(2**63),
        2**63 - 1,
        2**64 - 1,
        1.5,
        float("inf"),
        "",
        "ä\0",
        b"",
        b"bytes",
        bytearray(b"more"),
        memoryview(b"0123456789")[2:5],
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_gives_back_what_was_pushed(order, value):
    channel = Channel(order)
    channel.push(value)
    back = channel.pop("empty")
    if hasattr(value, "__len__") and not isinstance(value, str):
        assert isinstance(back, hybridloop.NativeBuffer)
        assert bytes(back) == bytes(value)
    else:
        assert type(back) is type(value)
        assert back == value
    assert channel.pop("empty") == "empty"
    assert channel.pop() is None


def test_order():
    for order, expected in (("fifo", [1, 2, 3]), ("lifo", [3, 2, 1])):
        channel = Channel(order)
        for value in (1, 2, 3):
            channel.push(value)
        assert (channel.order, len(channel)) == (order, 3)
        assert repr(channel) == f"<Channel {order} of 3 values>"
        assert channel.drain() == expected
        assert channel.drain() == []
    assert Channel().order == "fifo"


def test_owns_a_copy():
    data, channel = bytearray(b"data"), Channel()
    channel.push(data)
    data[:] = b"DATA"
    data.extend(b"it is not locked")
    assert channel.pop() == b"data"


def test_keeps_nothing_of_what_it_copies():
    class Text(str):
        pass

    text, channel = Text("text"), Channel()
    alive = [collections.Counter(map(type, gc.get_objects()))[Text]]
    channel.push(text)
    del text
    gc.collect()
    alive.append(collections.Counter(map(type, gc.get_objects()))[Text])
    assert alive[1] == 0
    assert type(channel.pop()) is str


@pytest.mark.parametrize("value", [[], (1,), {}, object(), 1j, {1}, Channel()])
def test_refuses_what_it_cannot_copy(value):
    channel = Channel()
    with pytest.raises(TypeError, match=type(value).__name__):
        channel.push(value)
    assert len(channel) == 0


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_refuses_ints_that_are_too_large(value):
    with pytest.raises(OverflowError, match="64 bits"):
        Channel().push(value)


def test_refuses_a_lone_surrogate():
    channel = Channel()
    with pytest.raises(UnicodeEncodeError):
        channel.push("\ud800")
    assert len(channel) == 0


@pytest.mark.parametrize("arguments", [("random",), ("fifo", 0)])
def test_refuses_to_be_made_of_nonsense(arguments):
    with pytest.raises(ValueError):
        Channel(*arguments)
    with pytest.raises(OverflowError, match="limit must be an int from 1 to"):
        Channel(limit=-1)


def test_holds_as_many_as_it_may():
    channel = Channel(limit=2)
    channel.push(1)
    channel.push(2)
    with pytest.raises(ChannelFullError):
        channel.push(3)
    assert (channel.limit, channel.pop()) == (2, 1)
    channel.push(3)
    assert channel.drain() == [2, 3]
    assert Channel().limit is None


def test_flush_drops_everything():
    channel = Channel()
    for value in range(100):
        channel.push(value)
    assert channel.flush() == 100
    assert channel.flush() == len(channel) == 0
    assert channel


def test_a_closed_channel_is_emptied_and_refuses_more():
    channel = Channel()
    channel.push(1)
    assert not channel.closed
    channel.close()
    channel.close()
    assert channel.closed
    with pytest.raises(ChannelClosedError):
        channel.push(2)
    assert channel.pop() == 1
    with pytest.raises(ChannelClosedError):
        channel.pop()
    assert channel.drain() == []


def test_many_threads_push_and_take():
    channel, taken, count = Channel(), collections.Counter(), 20_000
    missing = object()

    def push(start):
        for value in range(start, start + count):
            channel.push(value)

    def take():
        while (value := channel.pop(missing)) is not missing or any(t.is_alive() for t in pushers):
            if value is not missing:
                mine.append(value)

    pushers = [threading.Thread(target=push, args=(i * count,)) for i in range(4)]
    mine = collections.deque()
    takers = [threading.Thread(target=take) for _ in range(2)]
    for thread in pushers + takers:
        thread.start()
    for thread in pushers + takers:
        thread.join()
    taken.update(mine)
    taken.update(channel.drain())
    assert taken == collections.Counter(range(4 * count))


def test_get_takes_what_is_there(any_loop):
    channel = Channel()
    channel.push(1)
    assert any_loop.run_until_complete(channel.get()) == 1
    channel.push(2)
    assert any_loop.run_until_complete(channel.get(timeout=0)) == 2


def test_get_waits_for_another_thread(any_loop):
    channel = Channel()

    async def main():
        loop = asyncio.get_running_loop()
        for value in range(50):
            getting = asyncio.ensure_future(channel.get(LIMIT))
            await asyncio.sleep(0)
            await asyncio.gather(loop.run_in_executor(None, channel.push, value), getting)
            assert getting.result() == value

    any_loop.run_until_complete(main())
    any_loop.run_until_complete(any_loop.shutdown_default_executor())


def test_many_waiters_get_each_value_once(any_loop):
    channel, count = Channel(), 200

    async def main():
        waiting = [asyncio.ensure_future(channel.get(LIMIT)) for _ in range(count)]
        await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: [channel.push(value) for value in range(count)])
        thread.start()
        try:
            assert sorted(await asyncio.gather(*waiting)) == list(range(count))
        finally:
            thread.join()

    any_loop.run_until_complete(main())


def test_waiters_on_several_loops_get_each_value_once():
    channel, count, loops = Channel(), 300, 3
    results = [[] for _ in range(loops)]

    async def take(mine):
        async for value in channel:
            mine.append(value)

    def run(mine, factory):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(take(mine))

    factories = [hybridloop.new_event_loop, uvloop.new_event_loop, asyncio.SelectorEventLoop]
    threads = [
        threading.Thread(target=run, args=pair) for pair in zip(results, factories, strict=True)
    ]
    for thread in threads:
        thread.start()
    for value in range(count):
        channel.push(value)
        if random.random() < 0.1:
            time.sleep(0.001)
    channel.close()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(value for mine in results for value in mine) == list(range(count))


def test_wait_tells_that_there_is_something(any_loop):
    channel = Channel()

    async def main():
        waiting = asyncio.ensure_future(channel.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        channel.push(5)
        await waiting
        assert len(channel) == 1
        await channel.wait()

    any_loop.run_until_complete(main())


def test_a_timeout_takes_the_wait_back(any_loop):
    channel = Channel()

    async def main():
        for call in (channel.get, channel.wait):
            with pytest.raises(TimeoutError):
                await call(0.001)
            with pytest.raises(TimeoutError):
                await call(timeout=0)
        channel.push(1)
        assert await channel.get(1) == 1

    any_loop.run_until_complete(main())


def test_a_cancelled_wait_takes_nothing(any_loop):
    channel = Channel()

    async def main():
        waiting = asyncio.ensure_future(channel.get())
        await asyncio.sleep(0)
        channel.push(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert channel.pop() == 1

    any_loop.run_until_complete(main())


def test_closing_ends_waits(any_loop):
    channel = Channel()

    async def main():
        async def collect():
            return [value async for value in channel]

        collecting = asyncio.ensure_future(collect())
        getting = asyncio.ensure_future(channel.get())
        await asyncio.sleep(0.001)
        channel.close()
        assert await collecting == []
        with pytest.raises(ChannelClosedError):
            await getting
        await channel.wait()

    any_loop.run_until_complete(main())


def test_async_for_takes_all_until_it_is_closed(any_loop):
    channel = Channel()

    async def main():
        def push():
            for value in range(100):
                channel.push(value)
            channel.close()

        thread = threading.Thread(target=push)
        thread.start()
        try:
            return [value async for value in channel]
        finally:
            thread.join()

    assert any_loop.run_until_complete(main()) == list(range(100))


def test_a_loop_that_is_closed_with_a_waiter_leaves_nothing_behind(any_loop):
    channel = Channel()

    async def main():
        waiting = asyncio.ensure_future(channel.get())
        await asyncio.sleep(0.001)
        return waiting

    waiting = any_loop.run_until_complete(main())
    any_loop.close()
    channel.push(1)
    assert not waiting.done()
    waiting._log_destroy_pending = False
    del waiting
    gc.collect()
    assert channel.pop() == 1
