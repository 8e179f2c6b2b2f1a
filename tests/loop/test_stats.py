"""loop.stats(): counters of what the loop has done."""

import asyncio
import contextlib
import dataclasses
import socket
import time

import pytest

pytestmark = [
    pytest.mark.improves_on_asyncio,
    pytest.mark.usefixtures("clean_end"),
]


def test_a_new_loop_has_done_nothing(loop):
    stats = loop.stats()
    assert dataclasses.asdict(stats) == {
        "iterations": 0,
        "callbacks": 0,
        "polls": 0,
        "polls_skipped": 0,
        "ready": 0,
        "timers": 0,
        "transports": 0,
        "bytes_in": 0,
        "bytes_out": 0,
        "waiting_functions": 0,
        "waits": 0,
        "longest_iteration": 0.0,
        "longest_callback": 0.0,
        "running_seconds": 0.0,
        "busy_seconds": 0.0,
    }
    assert stats.busy == 0.0


def test_is_immutable(loop):
    with pytest.raises(dataclasses.FrozenInstanceError):
        loop.stats().iterations = 5


def test_counts_callbacks_and_iterations(loop):
    for _ in range(100):
        loop.call_soon(int)
    loop.call_soon(loop.stop)
    loop.run_forever()
    stats = loop.stats()
    assert stats.callbacks == 101
    assert stats.iterations == 1
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert loop.stats().callbacks == 102
    assert loop.stats().iterations >= 2


def test_former_names(loop):
    loop.poll_skip_turns = 3
    assert loop.poll_skip_iterations == loop.poll_skip_turns == 3
    spin(loop, 4)
    stats = loop.stats()
    assert stats.turns == stats.iterations == 4
    assert stats.longest_turn == stats.longest_iteration > 0


def test_counts_polls_and_those_left_out(loop):
    loop.poll_skip_iterations = 1
    spin(loop, 100)
    assert (loop.stats().polls, loop.stats().polls_skipped) == (100, 0)
    loop.poll_skip_iterations = 10
    loop.poll_skip_interval = 3600
    spin(loop, 100)
    stats = loop.stats()
    assert stats.polls - 100 == 10
    assert stats.polls_skipped == 90
    assert stats.iterations == 200


def spin(loop, iterations):
    """Run so many iterations."""

    def callback(left):
        if left:
            loop.call_soon(callback, left - 1)
        else:
            loop.stop()

    loop.call_soon(callback, iterations - 1)
    loop.run_forever()


def test_counts_what_is_ready(loop):
    def look():
        seen.append(loop.stats().ready)

    seen = []
    loop.call_soon(look)
    for _ in range(10):
        loop.call_soon(int)
    assert loop.stats().ready == 11
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [11]
    assert loop.stats().ready == 0


def test_counts_scheduled_timers(loop):
    timers = [loop.call_later(100, int) for _ in range(10)]
    assert loop.stats().timers == 10
    timers[0].cancel()
    assert loop.stats().timers == 9
    for timer in timers:
        timer.cancel()
    assert loop.stats().timers == 0


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def test_counts_transports_and_their_bytes(loop, eventually):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    assert loop.stats().transports == 0
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await eventually(lambda: loop.stats().transports == 2)
    before = loop.stats()
    writer.write(b"x" * 1000)
    await reader.readexactly(1000)
    after = loop.stats()
    # The client's bytes, and their echo.
    assert after.bytes_in - before.bytes_in == 2000
    assert after.bytes_out - before.bytes_out == 2000
    writer.close()
    await writer.wait_closed()
    await eventually(lambda: loop.stats().transports == 0)
    server.close()
    await server.wait_closed()


class EchoBuffered(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(100)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.transport.write(bytes(self.buffer[:nbytes]))


async def test_counts_bytes_of_buffered_protocols(loop):
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        transport, _ = await loop.connect_accepted_socket(EchoBuffered, ours)
        theirs.send(b"x" * 250)
        received = b""
        while len(received) < 250:
            received += await loop.sock_recv(theirs, 250)
        stats = loop.stats()
        assert (stats.bytes_in, stats.bytes_out) == (500, 250)
        transport.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_counts_bytes_of_sockets(loop):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for sock in (ours, theirs):
            sock.setblocking(False)
        data = bytes(1_000_000)
        sending = asyncio.ensure_future(loop.sock_sendall(ours, data))
        buffer = bytearray(1000)
        received = await loop.sock_recv_into(theirs, buffer)
        while received < len(data):
            received += len(await loop.sock_recv(theirs, 1_000_000))
        await sending
    stats = loop.stats()
    assert (stats.bytes_in, stats.bytes_out) == (1_000_000, 1_000_000)


async def test_counts_bytes_of_datagrams(loop):
    received = loop.create_future()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            received.set_result(data)

    receiver, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    sender, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=receiver.get_extra_info("sockname")
    )
    assert loop.stats().transports == 2
    sender.sendto(b"x" * 100)
    await received
    stats = loop.stats()
    assert (stats.bytes_in, stats.bytes_out) == (100, 100)
    sender.close()
    receiver.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.fixture
def at_some_time(loop_factory):
    """Checks new loops until one passes: a busy machine takes the processor away from some.

    What they tell may be a little off: it comes from the counter of the processor.
    """

    def at_some_time(check, tries=20):
        for left in reversed(range(tries)):
            with contextlib.closing(loop_factory()) as loop:
                try:
                    return check(loop)
                except AssertionError:
                    if not left:
                        raise

    return at_some_time


def test_the_longest_iteration(at_some_time):
    def block():
        time.sleep(0.05)

    def check(loop):
        loop.run_until_complete(asyncio.sleep(0.2))
        assert loop.stats().longest_iteration < 0.2, "waiting does not count"
        loop.call_soon(block)
        loop.run_until_complete(asyncio.sleep(0))
        assert 0.049 < loop.stats().longest_iteration < 10

    at_some_time(check)


def test_an_iteration_under_way_counts(loop):
    def look():
        time.sleep(0.05)
        seen.append(loop.stats().longest_iteration)

    seen = []
    loop.call_soon(look)
    loop.run_until_complete(asyncio.sleep(0))
    assert 0.049 < seen[0] < 10


def test_the_longest_callback(at_some_time):
    """Callbacks of one iteration count one by one, whatever makes them run."""

    def block():
        time.sleep(0.05)

    def check(loop):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b"readable")
            loop.add_reader(ours, lambda: (block(), loop.remove_reader(ours)))
            for _ in range(5):
                loop.call_soon(block)
                loop.call_later(0, block)
            loop.run_until_complete(asyncio.sleep(0.2))
        stats = loop.stats()
        assert stats.longest_iteration > 0.54
        assert 0.049 < stats.longest_callback < stats.longest_iteration / 2

    at_some_time(check)


def test_a_long_callback_among_short_ones(loop):
    def spin(seconds):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    for _ in range(10_000):
        loop.call_soon(int)
    loop.call_soon(spin, 0.01)
    for _ in range(10_000):
        loop.call_soon(int)
    for _ in range(100):
        loop.call_soon(spin, 0.001)
    loop.run_until_complete(asyncio.sleep(0))
    stats = loop.stats()
    assert 0.0098 < stats.longest_callback < stats.longest_iteration
    assert stats.longest_iteration > 0.098


def test_a_callback_under_way_counts(loop):
    def look():
        time.sleep(0.05)
        seen.append(loop.stats().longest_callback)

    seen = []
    loop.call_soon(int)
    loop.call_soon(look)
    loop.run_until_complete(asyncio.sleep(0))
    assert 0.049 < seen[0] < 10


def test_the_share_of_work(at_some_time):
    def check(loop):
        loop.run_until_complete(asyncio.sleep(0.2))
        idle = loop.stats().busy
        assert 0.0 < idle < 0.9
        loop.call_soon(time.sleep, 0.2)
        loop.run_until_complete(asyncio.sleep(0))
        assert idle < loop.stats().busy <= 1.0
        assert loop.stats().busy > 0.25
        assert 0.39 < loop.stats().running_seconds < 30
        assert 0.19 < loop.stats().busy_seconds < loop.stats().running_seconds
        before = loop.stats()
        time.sleep(0.01)
        assert loop.stats() == before, "time does not run while the loop does not"

    at_some_time(check)


def test_a_closed_loop_tells_what_it_has_done(loop):
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    stats = loop.stats()
    assert stats.iterations > 0
    assert stats.timers == stats.transports == 0


def test_iterations_that_end_in_an_exception_count(loop):
    def leave():
        raise SystemExit

    loop.call_soon(leave)
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert loop.stats().callbacks == 1
    assert loop.stats().longest_iteration > 0
