"""`sendto()`: data, order, flow control, errors.

Error messages are compared with those of asyncio's private class.
"""

import array
import asyncio
import errno
import socket
import sys
from asyncio import selector_events

import pytest

from tests.support.datagrams import Echo, Recorder, fill, plain_socket, receive
from tests.support.streams import socket_of

HEADER = 8 if sys.version_info >= (3, 13) else 0


async def test_bytes_like_data(open_endpoint, opened):
    peer = plain_socket()
    opened.append(peer)
    transport, _ = await open_endpoint()
    address = peer.getsockname()

    class Bytes(bytes):
        pass

    for data in (b"a", bytearray(b"bc"), memoryview(b"def"), Bytes(b"g"), memoryview(b"hijk")[1:]):
        transport.sendto(data, address)
        assert (await receive(peer))[0] == bytes(data)
    transport.sendto(addr=address, data=b"named")
    assert (await receive(peer))[0] == b"named"


@pytest.mark.parametrize("data", ["text", 5, None, [b"x"], array.array("b", [1])])
async def test_other_data_is_refused(open_endpoint, data):
    transport, _ = await open_endpoint()
    with pytest.raises(TypeError) as caught:
        transport.sendto(data, ("127.0.0.1", 9))
    with pytest.raises(TypeError) as of_asyncio:
        selector_events._SelectorDatagramTransport.sendto(None, data)
    assert str(caught.value) == str(of_asyncio.value)
    assert type(data).__name__ in str(caught.value)
    assert not transport.is_closing()


async def test_bad_calls(open_endpoint):
    transport, _ = await open_endpoint()
    for arguments, names in [
        ((), {}),
        ((b"x", None, None), {}),
        ((b"x",), {"data": b"x"}),
        ((b"x",), {"other": 1}),
        ((), {"addr": None}),
    ]:
        with pytest.raises(TypeError):
            transport.sendto(*arguments, **names)
    assert not transport.is_closing()


async def test_a_view_with_gaps_ends_the_transport(open_endpoint, unhandled):
    transport, _ = await open_endpoint()
    transport.sendto(memoryview(b"abcdef")[::2], ("127.0.0.1", 9))
    assert transport.is_closing()
    assert type(unhandled[0]["exception"]) is BufferError


async def test_empty_datagrams_arrive(open_endpoint, opened, eventually):
    transport, protocol = await open_endpoint()
    peer = plain_socket()
    opened.append(peer)
    for data in (b"", b"x", b""):
        peer.sendto(data, transport.get_extra_info("sockname"))
    await eventually(lambda: len(protocol.received) == 3)
    assert [data for data, _ in protocol.received] == [b"", b"x", b""]


async def test_empty_datagrams_leave(open_endpoint, opened):
    """From Python 3.13 on; before, asyncio drops them."""
    peer = plain_socket()
    opened.append(peer)
    transport, _ = await open_endpoint(remote_addr=peer.getsockname())
    for data in (b"", bytearray(), memoryview(b"")):
        transport.sendto(data)
    transport.sendto(b"last")
    expected = [b"", b"", b"", b"last"] if sys.version_info >= (3, 13) else [b"last"]
    assert [(await receive(peer))[0] for _ in expected] == expected


async def test_datagrams_leave_at_once(open_endpoint, opened):
    """Without an iteration of the loop, and in one piece each."""
    peer = plain_socket()
    opened.append(peer)
    transport, _ = await open_endpoint()
    for number in range(10):
        transport.sendto(b"%d" % number, peer.getsockname())
        assert peer.recv(100) == b"%d" % number
        assert transport.get_write_buffer_size() == 0


async def test_queue_keeps_order_and_contents(connected):
    transport, _, theirs = await connected()
    sent = fill(transport, b"first")
    changing = bytearray(b"changing")
    transport.sendto(changing)
    changing[:] = b"CHANGED!"
    transport.sendto(b"last")
    received = [(await receive(theirs))[0] for _ in range(sent + 3)]
    assert received == [b"first"] * (sent + 1) + [b"changing", b"last"]
    transport.sendto(b"direct again")
    assert (await receive(theirs))[0] == b"direct again"


@pytest.mark.improves_on_asyncio
async def test_buffer_size(connected):
    """Some releases of asyncio count headers when datagrams come, and not when they go."""
    transport, _, theirs = await connected()
    sent = fill(transport, b"x" * 100)
    assert transport.get_write_buffer_size() == 100 + HEADER
    transport.sendto(b"y" * 50)
    assert transport.get_write_buffer_size() == 150 + 2 * HEADER
    for _ in range(sent + 2):
        await receive(theirs)
    assert transport.get_write_buffer_size() == 0


async def test_flow_control(connected):
    transport, protocol, theirs = await connected()
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    transport.set_write_buffer_limits(high=10_000, low=5_000)
    assert transport.get_write_buffer_limits() == (5_000, 10_000)
    sent = fill(transport, b"x" * 1000)
    queued = 1
    while "pause_writing" not in protocol.names:
        transport.sendto(b"x" * 1000)
        queued += 1
        assert (transport.get_write_buffer_size() > 10_000) == ("pause_writing" in protocol.names)
    transport.sendto(b"x" * 1000)
    queued += 1
    sizes = []
    protocol.resume_writing = lambda: sizes.append(transport.get_write_buffer_size())
    for _ in range(sent + queued):
        assert (await receive(theirs))[0] == b"x" * 1000
    assert len(sizes) == 1
    assert sizes[0] <= 5_000
    assert protocol.names.count("pause_writing") == 1


async def test_limits_are_checked(open_endpoint):
    transport, _ = await open_endpoint()
    with pytest.raises(ValueError, match="must be >= low"):
        transport.set_write_buffer_limits(high=1, low=2)
    transport.set_write_buffer_limits(low=100)
    assert transport.get_write_buffer_limits() == (100, 400)


async def test_sending_in_resume_writing(connected):
    class Refill(Recorder):
        rest = 50

        def resume_writing(self):
            super().resume_writing()
            while self.rest and "pause_writing" not in self.names[-1:]:
                self.rest -= 1
                self.transport.sendto(b"z" * 1000)

    transport, protocol, theirs = await connected(Refill())
    transport.set_write_buffer_limits(high=2000)
    count = fill(transport)
    for _ in range(5):
        transport.sendto(b"y" * 1000)
    for _ in range(count + 6 + 50):
        await receive(theirs)
    assert protocol.rest == 0
    assert protocol.names.count("pause_writing") == protocol.names.count("resume_writing") > 1


async def test_too_large(open_endpoint):
    transport, protocol = await open_endpoint()
    transport.sendto(b"x" * 70_000, ("127.0.0.1", 9))
    assert [error.errno for error in protocol.errors] == [errno.EMSGSIZE]
    assert not transport.is_closing()


async def test_refused_and_alive(open_endpoint, opened, refusing, eventually):
    """Nothing listens: error_received() is called, and the endpoint stays open."""
    transport, protocol = await open_endpoint(remote_addr=("127.0.0.1", refusing))
    transport.sendto(b"anybody?")
    await eventually(lambda: protocol.errors)
    assert [type(error) for error in protocol.errors] == [ConnectionRefusedError]
    assert protocol.errors[0].errno == errno.ECONNREFUSED
    assert not transport.is_closing()
    peer = socket.socket(type=socket.SOCK_DGRAM)
    opened.append(peer)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    peer.bind(("127.0.0.1", refusing))
    transport.sendto(b"now")
    assert (await receive(peer))[0] == b"now"
    peer.sendto(b"yes", transport.get_extra_info("sockname"))
    await eventually(lambda: protocol.received)
    assert "connection_lost" not in protocol.names


async def test_refused_again_and_again(open_endpoint, refusing, eventually):
    transport, protocol = await open_endpoint(remote_addr=("127.0.0.1", refusing))
    for count in range(1, 20):
        transport.sendto(b"anybody?")
        await eventually(lambda: len(protocol.errors) >= count)  # noqa: B023
    assert {type(error) for error in protocol.errors} == {ConnectionRefusedError}


async def test_error_received_that_raises_reaches_the_sender(open_endpoint):
    class Broken(Recorder):
        def error_received(self, exc):
            raise ZeroDivisionError from exc

    transport, _ = await open_endpoint(Broken())
    with pytest.raises(ZeroDivisionError):
        transport.sendto(b"x" * 70_000, ("127.0.0.1", 9))
    assert not transport.is_closing()


async def test_vanishing_unix_peer(connected, eventually):
    transport, protocol, theirs = await connected()
    transport.sendto(b"hello")
    theirs.close()
    transport.sendto(b"anybody?")
    assert [type(error) for error in protocol.errors] == [ConnectionRefusedError]
    assert not transport.is_closing()


@pytest.mark.improves_on_asyncio
async def test_peer_that_vanishes_with_datagrams_queued(connected, eventually):
    """Each queued datagram fails on its own (asyncio reports one per iteration, and spins)."""
    transport, protocol, theirs = await connected()
    fill(transport)
    transport.sendto(b"second")
    theirs.close()
    await eventually(lambda: not transport.get_write_buffer_size())
    # The first ends the connection, and the second finds none.
    assert isinstance(protocol.errors[0], ConnectionError)
    assert [type(error) for error in protocol.errors[1:]] == [OSError]
    assert not transport.is_closing()


async def test_close_sends_what_is_queued(connected, eventually):
    transport, protocol, theirs = await connected()
    count = fill(transport, b"x")
    for _ in range(20):
        transport.sendto(b"queued")
    transport.close()
    assert transport.is_closing()
    await asyncio.sleep(0)
    assert not protocol.lost
    received = [(await receive(theirs))[0] for _ in range(count + 21)]
    assert received[-20:] == [b"queued"] * 20
    await eventually(lambda: protocol.lost)
    assert protocol.calls[-1] == ("connection_lost", None)
    assert theirs.fileno() != -1
    with pytest.raises(BlockingIOError):
        theirs.recv(100)


async def test_abort_drops_what_is_queued(connected, eventually):
    transport, protocol, theirs = await connected()
    count = fill(transport, b"x")
    transport.abort()
    assert transport.is_closing()
    await eventually(lambda: protocol.lost)
    assert protocol.calls[-1] == ("connection_lost", None)
    for _ in range(count):
        await receive(theirs)
    with pytest.raises(BlockingIOError):
        theirs.recv(100)


async def test_abort_after_close(connected, eventually):
    transport, protocol, _ = await connected()
    fill(transport)
    transport.close()
    transport.abort()
    transport.close()
    transport.abort()
    await eventually(lambda: protocol.lost)
    assert protocol.names.count("connection_lost") == 1


async def test_sending_after_the_end(connected, asyncio_log, eventually):
    """Connected endpoints count what is sent too late, and warn."""
    transport, protocol, theirs = await connected()
    transport.close()
    for _ in range(10):
        transport.sendto(b"late")
    assert asyncio_log.messages == ["socket.send() raised exception."] * 6
    await eventually(lambda: protocol.lost)
    with pytest.raises(BlockingIOError):
        theirs.recv(100)


@pytest.mark.improves_on_asyncio
async def test_unconnected_sending_after_the_end(open_endpoint, asyncio_log, eventually):
    """asyncio raises AttributeError from inside."""
    transport, protocol = await open_endpoint()
    transport.close()
    await eventually(lambda: protocol.lost)
    for _ in range(10):
        transport.sendto(b"late", ("127.0.0.1", 9))
    assert "socket.send() raised exception." in asyncio_log.messages


async def test_sending_to_a_full_unix_socket_by_name(open_endpoint, opened, folder):
    """An unconnected Unix socket counts as writable whatever its peer does."""
    theirs = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    opened.append(theirs)
    theirs.bind(f"{folder}/theirs")
    theirs.setblocking(False)
    transport, protocol = await open_endpoint(family=socket.AF_UNIX, local_addr=f"{folder}/ours")
    count = 0
    while not transport.get_write_buffer_size():
        transport.sendto(b"%d" % count, f"{folder}/theirs")
        count += 1
        assert count < 100_000
    for number in range(count):
        assert (await receive(theirs))[0] == b"%d" % number
    assert protocol.errors == []


async def test_queued_for_a_name(open_endpoint, opened, folder, eventually):
    """What is queued keeps an address that Python has to look at."""
    name = f"{folder}/grüße"
    theirs = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    opened.append(theirs)
    theirs.bind(name)
    theirs.setblocking(False)
    transport, protocol = await open_endpoint(family=socket.AF_UNIX, local_addr=f"{folder}/ours")
    count = 0
    while not transport.get_write_buffer_size():
        transport.sendto(b"%d" % count, name)
        count += 1
        assert count < 100_000
    for number in range(count):
        assert await receive(theirs) == (b"%d" % number, f"{folder}/ours")
    assert protocol.errors == []


async def test_flood(open_endpoint, eventually):
    """Many datagrams in a row, by the same tuple and by new ones: each arrives once, in order."""
    server, echo = await open_endpoint(Echo())
    address = server.get_extra_info("sockname")
    client, protocol = await open_endpoint()
    for start in range(0, 2000, 50):
        for number in range(start, start + 50):
            client.sendto(b"%d" % number, address if number % 2 else (*address,))
        await eventually(lambda: len(protocol.received) == start + 50)  # noqa: B023
    assert [data for data, _ in protocol.received] == [b"%d" % number for number in range(2000)]
    assert len(echo.received) == 2000


async def test_socket_closed_by_somebody(open_endpoint, opened, next_owner):
    """Sending fails as it does for a closed socket, and nothing reaches another socket."""
    peer = plain_socket()
    opened.append(peer)
    transport, protocol = await open_endpoint(remote_addr=peer.getsockname())
    sock = socket_of(transport)
    fd = sock.fileno()
    sock.close()
    _, other = next_owner(fd)
    transport.sendto(b"secret")
    assert [error.errno for error in protocol.errors] == [errno.EBADF]
    transport.abort()
    await asyncio.sleep(0)
    assert protocol.lost
    with pytest.raises(BlockingIOError):
        other.recv(1)
