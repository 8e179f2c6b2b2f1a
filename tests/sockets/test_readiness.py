"""The loop remembers which sockets are empty, and is never wrong about it."""

import array
import asyncio
import os
import select
import socket
from unittest import mock

import pytest


async def wait_until_read(loop, sock, size=100):
    """A read that waits: from here on the loop knows the socket."""
    reading = asyncio.ensure_future(loop.sock_recv(sock, size))
    await asyncio.sleep(0)
    return reading


async def known(loop, ours, theirs):
    """Get both ends to where a short read has shown that `ours` is empty."""
    reading = await wait_until_read(loop, ours)
    theirs.send(b"first")
    assert await asyncio.wait_for(reading, 60) == b"first"


async def test_data_after_a_short_read(loop, pair):
    ours, theirs = pair
    await known(loop, ours, theirs)
    for number in range(50):
        theirs.send(b"%d" % number)
        assert await asyncio.wait_for(loop.sock_recv(ours, 100), 60) == b"%d" % number


async def test_data_after_a_full_read(loop, pair):
    ours, theirs = pair
    await known(loop, ours, theirs)
    theirs.send(b"abcdef")
    for letter in b"abcdef":
        assert await asyncio.wait_for(loop.sock_recv(ours, 1), 60) == bytes([letter])


async def test_end_of_stream_behind_data(loop, pair):
    ours, theirs = pair
    await known(loop, ours, theirs)
    theirs.send(b"last")
    theirs.close()
    assert await asyncio.wait_for(loop.sock_recv(ours, 100), 60) == b"last"
    for _ in range(3):
        assert await asyncio.wait_for(loop.sock_recv(ours, 100), 60) == b""


async def test_shutdown_by_ourselves(loop, pair):
    ours, theirs = pair
    await known(loop, ours, theirs)
    ours.shutdown(socket.SHUT_RD)
    assert await asyncio.wait_for(loop.sock_recv(ours, 100), 60) == b""


async def test_urgent_data_ends_a_read_early(loop, tcp_pair):
    """TCP cuts a read at the urgent mark; what is behind it comes without another event."""
    ours, theirs = tcp_pair
    await known(loop, ours, theirs)
    for number in range(20):
        theirs.send(b"before")
        theirs.send(b"!", socket.MSG_OOB)
        theirs.send(b"after")
        received = b""
        while not received.endswith(b"after"):
            received += await asyncio.wait_for(loop.sock_recv(ours, 100), 60)
        assert received == b"beforeafter", number


async def test_passed_descriptors_end_a_read_early(loop, unix_pair):
    """A Unix socket ends a read where descriptors were passed along."""
    ours, theirs = unix_pair
    await known(loop, ours, theirs)
    with open(os.devnull) as file:
        rights = array.array("i", [file.fileno()])
        theirs.sendmsg([b"with"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    theirs.send(b"without")
    received = b""
    while received != b"withwithout":
        received += await asyncio.wait_for(loop.sock_recv(ours, 100), 60)


def read_beside(sock, size):
    """Read when the system has delivered something, without an iteration of the loop."""
    select.select([sock], [], [], 60)
    return sock.recv(size)


async def test_reads_beside_the_loop(loop, pair):
    ours, theirs = pair
    await known(loop, ours, theirs)
    theirs.send(b"abcdef")
    assert read_beside(ours, 3) == b"abc"
    assert await asyncio.wait_for(loop.sock_recv(ours, 100), 60) == b"def"
    theirs.send(b"all")
    assert read_beside(ours, 100) == b"all"
    reading = await wait_until_read(loop, ours)
    theirs.send(b"more")
    assert await asyncio.wait_for(reading, 60) == b"more"


async def test_reads_by_a_duplicate(loop, pair):
    ours, theirs = pair
    await known(loop, ours, theirs)
    with ours.dup() as copy:
        copy.setblocking(False)
        theirs.send(b"abcdef")
        assert await asyncio.wait_for(loop.sock_recv(copy, 3), 60) == b"abc"
        assert await asyncio.wait_for(loop.sock_recv(ours, 100), 60) == b"def"
        readings = [await wait_until_read(loop, sock, 3) for sock in (ours, copy)]
        theirs.send(b"uvwxyz")
        assert sorted(await asyncio.wait_for(asyncio.gather(*readings), 60)) == [b"uvw", b"xyz"]


async def test_number_used_again_while_a_duplicate_lives(loop, sockets, next_owner):
    """The kernel still reports the closed socket, under the number of its successor."""
    ours, theirs = socket.socketpair()
    sockets += [theirs, ours.dup()]
    ours.setblocking(False)
    await known(loop, ours, theirs)
    number = ours.fileno()
    ours.close()
    ours, other = next_owner(number)
    ours.setblocking(False)
    reading = await wait_until_read(loop, ours)
    theirs.send(b"to the duplicate")
    await asyncio.sleep(0.01)
    assert not reading.done()
    other.send(b"to the successor")
    assert await asyncio.wait_for(reading, 60) == b"to the successor"


async def test_two_readers_of_one_socket(loop, pair):
    ours, theirs = pair
    readings = [await wait_until_read(loop, ours, 3) for _ in range(3)]
    theirs.send(b"abcdef")
    await asyncio.sleep(0.01)
    theirs.send(b"ghi")
    received = await asyncio.wait_for(asyncio.gather(*readings), 60)
    assert sorted(received) == [b"abc", b"def", b"ghi"]


async def test_cancelled_after_the_event(loop, pair):
    """The event has come, the task is cancelled before it reads: the next call reads."""
    ours, theirs = pair
    await known(loop, ours, theirs)
    for number in range(20):
        reading = await wait_until_read(loop, ours)
        theirs.send(b"%d" % number)
        for _ in range(number % 4):
            await asyncio.sleep(0)
        reading.cancel()
        try:
            received = await reading
        except asyncio.CancelledError:
            received = await asyncio.wait_for(loop.sock_recv(ours, 100), 60)
        assert received == b"%d" % number


async def test_beside_add_reader(loop, pair, eventually):
    ours, theirs = pair
    await known(loop, ours, theirs)
    seen = []
    loop.add_reader(ours, lambda: seen.append(ours.recv(1)))
    theirs.send(b"ab")
    await eventually(lambda: seen == [b"a", b"b"])
    assert loop.remove_reader(ours)
    theirs.send(b"after")
    assert await asyncio.wait_for(loop.sock_recv(ours, 100), 60) == b"after"
    writable = []
    loop.add_writer(ours, lambda: writable.append(loop.remove_writer(ours)))
    reading = await wait_until_read(loop, ours)
    await eventually(lambda: writable)
    theirs.send(b"still")
    assert await asyncio.wait_for(reading, 60) == b"still"


async def test_removing_a_reader_of_a_waiting_socket(loop, pair):
    ours, theirs = pair
    reading = await wait_until_read(loop, ours)
    loop.add_reader(ours, mock.Mock())
    assert loop.remove_reader(ours)
    theirs.send(b"data")
    assert await asyncio.wait_for(reading, 60) == b"data"


async def test_socket_with_a_timeout_does_not_block_the_loop(loop, pair):
    ours, theirs = pair
    ours.settimeout(60)
    reading = await wait_until_read(loop, ours)
    theirs.send(b"data")
    assert await asyncio.wait_for(reading, 60) == b"data"


async def test_blocking_socket_does_not_block_the_loop(loop, pair):
    ours, theirs = pair
    ours.setblocking(True)
    reading = await wait_until_read(loop, ours)
    theirs.send(b"data")
    assert await asyncio.wait_for(reading, 60) == b"data"


async def test_another_file_under_the_number_is_noticed_after_a_wait_in_vain(loop, pair, unix_pair):
    """os.dup2() over the number of a socket that is known; see docs/differences.md."""
    ours, theirs = pair
    await known(loop, ours, theirs)
    os.dup2(unix_pair[0].fileno(), ours.fileno())
    reading = await wait_until_read(loop, ours)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    for number in range(3):
        reading = await wait_until_read(loop, ours)
        unix_pair[1].send(b"%d" % number)
        assert await asyncio.wait_for(reading, 60) == b"%d" % number


async def test_another_file_under_the_number_is_noticed_with_a_reader(loop, pair, unix_pair):
    ours, theirs = pair
    await known(loop, ours, theirs)
    os.dup2(unix_pair[0].fileno(), ours.fileno())
    loop.add_reader(ours, int)
    assert loop.remove_reader(ours)
    reading = await wait_until_read(loop, ours)
    unix_pair[1].send(b"data")
    assert await asyncio.wait_for(reading, 60) == b"data"


async def test_cancelling_one_wait_leaves_the_others(loop, pair):
    ours, theirs = pair
    readings = [await wait_until_read(loop, ours, 1) for _ in range(3)]
    readings[0].cancel()
    await asyncio.sleep(0)
    theirs.send(b"ab")
    assert await asyncio.wait_for(asyncio.gather(*readings[1:]), 60) == [b"a", b"b"]
    writable = asyncio.ensure_future(loop.sock_sendall(ours, bytes(16 << 20)))
    reading = await wait_until_read(loop, ours)
    reading.cancel()
    await asyncio.sleep(0)
    while not writable.done():
        await asyncio.wait_for(loop.sock_recv(theirs, 1 << 20), 60)


class Counting(socket.socket):
    calls = 0

    def recv(self, *args):
        type(self).calls += 1
        return super().recv(*args)

    def send(self, *args):
        type(self).calls += 1
        return super().send(*args)


async def test_methods_of_a_subclass_are_called(loop, unix_pair):
    ours, theirs = unix_pair
    with Counting(ours.family, ours.type, fileno=ours.detach()) as ours:
        ours.setblocking(False)
        Counting.calls = 0
        reading = await wait_until_read(loop, ours)
        theirs.send(b"data")
        assert await asyncio.wait_for(reading, 60) == b"data"
        await loop.sock_sendall(ours, b"answer")
        assert theirs.recv(100) == b"answer"
        assert Counting.calls >= 3


async def test_replaced_methods_are_called(loop, unix_pair):
    ours, theirs = unix_pair
    with mock.patch.object(socket.socket, "recv", lambda sock, n: b"replaced", create=True):
        assert await loop.sock_recv(ours, 100) == b"replaced"
    theirs.send(b"data")
    assert await loop.sock_recv(ours, 100) == b"data"


async def test_object_that_is_no_socket(loop, unix_pair):
    """Anything with the methods of a socket will do."""
    ours, theirs = unix_pair

    class Wrapper:
        __slots__ = ("wrapped",)

        def fileno(self):
            return self.wrapped.fileno()

        def recv(self, n):
            return self.wrapped.recv(n)

        def send(self, data):
            return self.wrapped.send(data)

        def gettimeout(self):
            return 0.0

    wrapper = Wrapper()
    wrapper.wrapped = ours
    for number in range(5):
        reading = await wait_until_read(loop, wrapper)
        theirs.send(b"%d" % number)
        assert await asyncio.wait_for(reading, 60) == b"%d" % number
    sending = asyncio.ensure_future(loop.sock_sendall(wrapper, b"x" * 1_000_000))
    received = 0
    while received < 1_000_000:
        received += len(await loop.sock_recv(theirs, 65536))
    await sending


async def test_closing_a_socket_that_is_read_ends_in_an_error_or_waits(loop, pair):
    """As in asyncio it is not reported; cancelling still works, and the number can be reused."""
    ours, _ = pair
    reading = await wait_until_read(loop, ours)
    ours.close()
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize("size", [1, 255, 256, 65536, 256 * 1024, 256 * 1024 + 1, 3_000_000])
async def test_sizes(loop, pair, size):
    ours, theirs = pair
    data = os.urandom(size)
    sending = asyncio.ensure_future(loop.sock_sendall(theirs, data))
    received = b""
    while len(received) < size:
        part = await loop.sock_recv(ours, size)
        assert part
        received += part
    assert received == data
    await sending


async def test_reading_nothing_never_waits(loop, pair):
    ours, theirs = pair
    await known(loop, ours, theirs)
    assert await asyncio.wait_for(loop.sock_recv(ours, 0), 60) == b""
    assert await asyncio.wait_for(loop.sock_recv_into(ours, bytearray()), 60) == 0


async def test_data_of_sendall_cannot_change_its_size_meanwhile(loop, pair):
    ours, theirs = pair
    data = bytearray(8_000_000)
    sending = asyncio.ensure_future(loop.sock_sendall(ours, data))
    await asyncio.sleep(0)
    with pytest.raises(BufferError):
        data.append(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    data.append(0)


async def test_readings_outlive_each_other(loop, tcp_pair):
    """Each result is an object of its own."""
    ours, theirs = tcp_pair
    kept = []
    for number in range(100):
        message = bytes([number]) * 1000
        theirs.send(message)
        kept.append((await loop.sock_recv(ours, 2000), message))
    assert all(received == message for received, message in kept)


async def test_accept_of_many(loop, sockets):
    listener = socket.create_server(("127.0.0.1", 0))
    sockets.append(listener)
    listener.setblocking(False)
    for count in range(1, 10):
        accepting = [asyncio.ensure_future(loop.sock_accept(listener)) for _ in range(count)]
        await asyncio.sleep(0)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(count)]
        sockets += clients
        accepted = await asyncio.wait_for(asyncio.gather(*accepting), 60)
        sockets += [sock for sock, _ in accepted]
        assert {peer for _, peer in accepted} == {client.getsockname() for client in clients}
        assert all(sock.gettimeout() == 0 for sock, _ in accepted)
