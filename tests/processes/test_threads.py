"""Many loops, many threads, and calls from everywhere while loops come and go."""

import asyncio
import gc
import os
import socket
import threading
import time
import warnings

import pytest

from tests import memory
from tests.support.descriptors import open_fds
from tests.support.fixtures import ends_clean

__all__ = ["ends_clean"]


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def converse(address, rounds, size):
    reader, writer = await asyncio.open_connection(*address)
    message = os.urandom(size)
    for _ in range(rounds):
        writer.write(message)
        assert await reader.readexactly(size) == message
    writer.close()
    await writer.wait_closed()


def in_threads(count, work):
    errors = []

    def guarded(number):
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_servers_and_clients_in_several_threads(loop_factory):
    """Each loop serves its own clients and is a client of the next one."""
    count = 4
    addresses = [None] * count
    ready, done = threading.Barrier(count), threading.Barrier(count)

    def work(number):
        async def main():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            addresses[number] = server.sockets[0].getsockname()
            await asyncio.to_thread(ready.wait, 60)
            await asyncio.gather(
                *(converse(addresses[(number + step) % count], 40, 2000) for step in range(2)),
                converse(addresses[number], 4, 200_000),
            )
            await asyncio.to_thread(done.wait, 60)
            server.close()
            deadline = time.monotonic() + 60
            while len(asyncio.all_tasks()) > 1:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.001)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    in_threads(count, work)


def test_loops_that_hand_work_around(loop_factory):
    """run_coroutine_threadsafe() in a ring of loops: nobody is missed, nothing is lost."""
    count, rounds = 4, 60
    loops = [None] * count
    ready, done = threading.Barrier(count), threading.Barrier(count)

    def work(number):
        async def add(value):
            await asyncio.sleep(0)
            return value + number

        async def main():
            loops[number] = asyncio.get_running_loop()
            await asyncio.to_thread(ready.wait, 60)
            other = loops[(number + 1) % count]
            for value in range(rounds):
                future = asyncio.run_coroutine_threadsafe(
                    adders[(number + 1) % count](value), other
                )
                assert await asyncio.wrap_future(future) == value + (number + 1) % count
            await asyncio.to_thread(done.wait, 60)

        adders[number] = add
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    adders = {}
    in_threads(count, work)


def test_storm_of_calls_while_loops_close(loop_factory):
    """A call gets in or is refused; what was dropped is freed with its arguments."""

    class Token:
        alive = 0

        def __init__(self):
            Token.alive += 1

        def __del__(self):
            Token.alive -= 1

    loops = [loop_factory() for _ in range(12)]
    refused, go, lock = [], threading.Event(), threading.Lock()

    def storm():
        go.wait()
        for loop in loops:
            try:
                while True:
                    for _ in range(50):
                        loop.call_soon_threadsafe(id, Token())
                    time.sleep(0.0001)  # more than the loop can run would only pile up
            except RuntimeError as error:
                with lock:
                    refused.append(str(error))

    threads = [threading.Thread(target=storm) for _ in range(3)]
    for thread in threads:
        thread.start()
    go.set()
    for loop in loops:
        for _ in range(3):
            loop.call_soon(loop.stop)
            loop.run_forever()
        loop.close()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()
    assert set(refused) == {"Event loop is closed"}
    assert len(refused) == len(loops) * len(threads)
    del loop, loops[:], thread, threads
    gc.collect()
    assert Token.alive == 0


def test_stop_and_start_under_fire(loop):
    """A loop that is stopped and run again all the time loses no call."""
    count, each = 3, 400
    seen = []

    def fire(number):
        for index in range(each):
            loop.call_soon_threadsafe(seen.append, (number, index))

    threads = [threading.Thread(target=fire, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 100
    while len(seen) < count * each:
        assert time.monotonic() < deadline
        loop.call_soon(loop.stop)
        loop.run_forever()
    for thread in threads:
        thread.join()
    for number in range(count):
        assert [index for who, index in seen if who == number] == list(range(each))


@pytest.mark.skipif(not memory.available, reason="asks glibc what is in use")
def test_thousands_of_loops(loop_factory):
    """2,000 loops made, run and closed leave no descriptor and no memory."""

    async def main():
        await asyncio.sleep(0)

    def some(count):
        for _ in range(count):
            loop = loop_factory()
            loop.run_until_complete(main())
            loop.close()
        gc.collect()

    some(500)
    fds, before = open_fds(), memory.in_use()
    some(2000)
    assert open_fds() <= fds
    assert memory.in_use() - before < 1 << 20


@pytest.mark.parametrize("used", ["never", "run", "late", "reader", "timer", "callback"])
def test_loops_dropped_without_close(loop_factory, used):
    """They are garbage: collected, reported and closed."""
    before, said = open_fds(), []
    ours, theirs = socket.socketpair()

    def drop_one():
        loop = loop_factory()
        if used == "late":
            gc.collect(0)  # the loop is older than what it makes when it runs first
        if used in ("run", "late"):
            loop.call_soon(loop.stop)
            loop.run_forever()
        elif used == "reader":
            loop.add_reader(ours, loop.stop)
        elif used == "timer":
            loop.call_later(3600, loop.stop)
        elif used == "callback":
            loop.call_soon(loop.stop)

    with ours, theirs, warnings.catch_warnings():
        warnings.simplefilter("always", ResourceWarning)
        # As text: the warning itself holds on to the loop.
        warnings.showwarning = lambda message, *_: said.append(str(message))
        gc.collect()
        said.clear()  # what others have left
        for _ in range(20):
            drop_one()
        gc.collect()
    assert open_fds() <= before
    assert len(said) == 20
    assert all("unclosed event loop" in text for text in said)
