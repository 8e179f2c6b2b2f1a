"""loop.sock_*: coroutines over the user's own sockets."""

import asyncio
import socket
import ssl
import struct

import pytest

from tests.support.streams import MIB, Peer, Recorder, tcp_pair
from tests.support.waiting import iterations_of_a_rest


@pytest.fixture
def pair(make_pair):
    ours, theirs = make_pair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def datagram_pair():
    pair = []
    for _ in range(2):
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        pair.append(sock)
    yield pair
    for sock in pair:
        sock.close()


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


async def later(delay, function, *arguments):
    await asyncio.sleep(delay)
    return function(*arguments)


async def test_recv_of_what_is_there(loop, pair):
    ours, theirs = pair
    theirs.send(b"hello")
    assert await loop.sock_recv(ours, 100) == b"hello"


async def test_recv_waits(loop, pair):
    ours, theirs = pair
    task = asyncio.create_task(later(0.01, theirs.send, b"hello"))
    assert await loop.sock_recv(ours, 100) == b"hello"
    await task


async def test_recv_takes_no_more_than_asked(loop, pair):
    ours, theirs = pair
    theirs.send(b"hello")
    assert await loop.sock_recv(ours, 2) == b"he"
    assert await loop.sock_recv(ours, 100) == b"llo"


async def test_recv_at_the_end_of_the_stream(loop, pair):
    ours, theirs = pair
    task = asyncio.create_task(later(0.005, theirs.close))
    assert await loop.sock_recv(ours, 10) == b""
    assert await loop.sock_recv(ours, 10) == b""
    await task


async def test_recv_many_times(loop, pair):
    ours, theirs = pair
    for number in range(300):
        reading = asyncio.create_task(loop.sock_recv(ours, 100))
        await asyncio.sleep(0)
        theirs.send(b"%d" % number)
        assert await reading == b"%d" % number


async def test_recv_into(loop, pair):
    ours, theirs = pair
    buffer = bytearray(b"-" * 10)
    theirs.send(b"now")
    assert await loop.sock_recv_into(ours, buffer) == 3
    task = asyncio.create_task(later(0.005, theirs.send, b"later"))
    with memoryview(buffer) as view:
        assert await loop.sock_recv_into(ours, view[3:]) == 5
    await task
    assert buffer == b"nowlater--"


async def test_recvfrom(loop, datagram_pair):
    ours, theirs = datagram_pair
    task = asyncio.create_task(later(0.005, theirs.sendto, b"datagram", ours.getsockname()))
    assert await loop.sock_recvfrom(ours, 100) == (b"datagram", theirs.getsockname())
    await task
    theirs.sendto(b"", ours.getsockname())
    assert await loop.sock_recvfrom(ours, 100) == (b"", theirs.getsockname())


async def test_recvfrom_into(loop, datagram_pair):
    ours, theirs = datagram_pair
    buffer = bytearray(20)
    theirs.sendto(b"datagram", ours.getsockname())
    assert await loop.sock_recvfrom_into(ours, buffer) == (8, theirs.getsockname())
    assert buffer[:8] == b"datagram"
    task = asyncio.create_task(later(0.005, theirs.sendto, b"second", ours.getsockname()))
    assert await loop.sock_recvfrom_into(ours, buffer, 3) == (3, theirs.getsockname())
    assert buffer[:8] == b"secagram"
    await task


async def test_sendto(loop, datagram_pair):
    ours, theirs = datagram_pair
    assert await loop.sock_sendto(ours, b"datagram", theirs.getsockname()) == 8
    assert await loop.sock_recvfrom(theirs, 100) == (b"datagram", ours.getsockname())


async def test_sendall(loop, pair):
    ours, theirs = pair
    assert await loop.sock_sendall(ours, b"hello") is None
    assert theirs.recv(10) == b"hello"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_sendall_of_much(loop, pair, kind):
    ours, theirs = pair
    data = bytes(range(256)) * (8 * MIB // 256)
    sending = asyncio.create_task(loop.sock_sendall(ours, kind(data)))
    received = bytearray()
    while len(received) < len(data):
        received += await loop.sock_recv(theirs, 65536)
    await sending
    assert received == data


async def test_sendall_of_nothing(loop, pair):
    ours, theirs = pair
    await asyncio.wait_for(loop.sock_sendall(ours, b""), 60)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


async def test_sendall_to_a_peer_that_is_gone(loop, pair):
    ours, theirs = pair
    sending = asyncio.create_task(loop.sock_sendall(ours, b"x" * 10 * MIB))
    await asyncio.sleep(0.005)
    theirs.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await asyncio.wait_for(sending, 60)


async def test_connect_and_accept(loop, listener):
    with socket.socket() as client:
        client.setblocking(False)
        accepting = asyncio.create_task(loop.sock_accept(listener))
        assert await loop.sock_connect(client, listener.getsockname()) is None
        accepted, address = await accepting
        with accepted:
            assert address == client.getsockname()
            assert accepted.gettimeout() == 0
            await loop.sock_sendall(client, b"hi")
            assert await loop.sock_recv(accepted, 10) == b"hi"


async def test_accept_of_what_is_there(loop, listener):
    with socket.create_connection(listener.getsockname()) as client:
        accepted, address = await loop.sock_accept(listener)
        accepted.close()
        assert address == client.getsockname()


async def test_connect_to_a_host_name(loop, listener):
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
        assert client.getpeername() == listener.getsockname()


async def test_connect_to_a_name_that_cannot_be_resolved(loop):
    async def unresolvable(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    loop.getaddrinfo = unresolvable
    with socket.socket() as client:
        client.setblocking(False)
        with pytest.raises(socket.gaierror):
            await loop.sock_connect(client, ("host.invalid", 80))


async def test_connect_refused(loop):
    with socket.socket() as taken, socket.socket() as client:
        taken.bind(("127.0.0.1", 0))
        client.setblocking(False)
        address = taken.getsockname()
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.sock_connect(client, address)
        assert str(caught.value).endswith(f"Connect call failed {address}")


async def test_connect_of_a_unix_socket(loop, tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        client.setblocking(False)
        await loop.sock_connect(client, path)
        assert client.getpeername() == path


async def test_connect_of_a_datagram_socket(loop, datagram_pair):
    ours, theirs = datagram_pair
    await loop.sock_connect(ours, theirs.getsockname())
    await loop.sock_sendall(ours, b"connected")
    assert await loop.sock_recv(theirs, 100) == b"connected"


@pytest.mark.parametrize("size", [1, 5])
async def test_cancelled_recv_leaves_the_socket_usable(loop, pair, size):
    ours, theirs = pair
    for number in range(size):
        task = asyncio.create_task(loop.sock_recv(ours, 100))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        theirs.send(b"%d" % number)
        assert await loop.sock_recv(ours, 100) == b"%d" % number


async def test_cancelled_recv_takes_no_data(loop, pair):
    """Data and cancellation in one iteration: the data must not be lost with the cancelled task."""
    ours, theirs = pair
    for number in range(50):
        task = asyncio.create_task(loop.sock_recv(ours, 100))
        await asyncio.sleep(0)
        theirs.send(b"%d" % number)
        if number % 2:
            await asyncio.sleep(0)
        task.cancel()
        try:
            received = await task
        except asyncio.CancelledError:
            received = await loop.sock_recv(ours, 100)
        assert received == b"%d" % number


async def test_cancelled_accept_keeps_the_connection_in_the_queue(loop, listener):
    task = asyncio.create_task(loop.sock_accept(listener))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with socket.create_connection(listener.getsockname()) as client:
        accepted, address = await loop.sock_accept(listener)
        accepted.close()
        assert address == client.getsockname()


async def test_cancelled_sendall_leaves_the_socket_usable(loop, pair):
    ours, theirs = pair
    task = asyncio.create_task(loop.sock_sendall(ours, b"x" * 10 * MIB))
    await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    reading = asyncio.create_task(read_until(loop, theirs, b"end"))
    await loop.sock_sendall(ours, b"end")
    await asyncio.wait_for(reading, 60)


async def read_until(loop, sock, end):
    data = b""
    while not data.endswith(end):
        data = data[-10:] + await loop.sock_recv(sock, 65536)


async def test_timed_out_recv(loop, pair):
    ours, theirs = pair
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(loop.sock_recv(ours, 10), 0.01)
    theirs.send(b"late")
    assert await loop.sock_recv(ours, 10) == b"late"


async def test_reading_and_writing_one_socket_at_once(loop, pair):
    ours, theirs = pair
    size = 4 * MIB

    async def read(sock):
        data = bytearray()
        while len(data) < size:
            data += await loop.sock_recv(sock, 65536)
        return data

    _, _, left, right = await asyncio.gather(
        loop.sock_sendall(ours, b"o" * size),
        loop.sock_sendall(theirs, b"t" * size),
        read(ours),
        read(theirs),
    )
    assert left == b"t" * size
    assert right == b"o" * size


async def test_many_sockets_at_once(loop):
    pairs = [socket.socketpair() for _ in range(100)]
    for sock in (sock for pair in pairs for sock in pair):
        sock.setblocking(False)
    tasks = [asyncio.create_task(loop.sock_recv(ours, 100)) for ours, _ in pairs]
    await asyncio.sleep(0)
    for number, (_, theirs) in reversed(list(enumerate(pairs))):
        theirs.send(b"%d" % number)
    assert await asyncio.gather(*tasks) == [b"%d" % number for number in range(100)]
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


async def test_fd_number_used_again(loop):
    """Close a socket the loop has waited on; the next one with its number works."""
    numbers = set()
    for number in range(20):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        numbers.add(ours.fileno())
        reading = asyncio.create_task(loop.sock_recv(ours, 100))
        await asyncio.sleep(0)
        theirs.send(b"%d" % number)
        assert await asyncio.wait_for(reading, 60) == b"%d" % number
        ours.close()
        theirs.close()
    assert len(numbers) < 20


async def test_fd_number_used_again_after_a_cancelled_wait(loop):
    for _ in range(20):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        waiting = asyncio.create_task(loop.sock_recv(ours, 100))
        await asyncio.sleep(0)
        waiting.cancel()
        ours.close()
        theirs.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_fd_number_used_again_in_the_other_direction(loop):
    """First a reader, then with the same number a writer that has to wait."""
    for _ in range(5):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        reading = asyncio.create_task(loop.sock_recv(ours, 10))
        await asyncio.sleep(0)
        theirs.send(b"x")
        assert await reading == b"x"
        ours.close()
        theirs.close()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        sending = asyncio.create_task(loop.sock_sendall(ours, b"y" * MIB))
        total = 0
        while total < MIB:
            total += len(await loop.sock_recv(theirs, 65536))
        await sending
        ours.close()
        theirs.close()


async def test_fd_handed_from_sock_methods_to_a_transport(loop, opened, eventually):
    """Proxies read a first line with sock_recv and then make a transport of the socket."""
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    peer = Peer(theirs)
    opened.append(peer)
    reading = asyncio.create_task(loop.sock_recv(ours, 100))
    await asyncio.sleep(0)
    peer.send(b"first")
    assert await reading == b"first"
    transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
    opened.append(transport)
    peer.send(b"second")
    await eventually(lambda: protocol.data == b"second")
    transport.write(b"answer")
    assert await peer.read(6) == b"answer"


async def test_fd_handed_from_sock_methods_to_a_reader(loop, pair, eventually):
    ours, theirs = pair
    reading = asyncio.create_task(loop.sock_recv(ours, 100))
    await asyncio.sleep(0)
    theirs.send(b"first")
    assert await reading == b"first"
    seen = []
    loop.add_reader(ours, lambda: seen.append(ours.recv(100)))
    theirs.send(b"second")
    await eventually(lambda: seen == [b"second"])
    assert loop.remove_reader(ours)
    theirs.send(b"third")
    assert await loop.sock_recv(ours, 100) == b"third"


async def test_idle_sockets_do_not_spin(loop, pair):
    """After sock_recv returned, unread data must not wake the loop."""
    ours, theirs = pair
    reading = asyncio.create_task(loop.sock_recv(ours, 1))
    await asyncio.sleep(0)
    theirs.send(b"x" * 1000)
    await reading
    assert await iterations_of_a_rest(loop) < 20


METHODS = {
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 10),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(10)),
    "sock_recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 10),
    "sock_recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(10)),
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, b"x"),
    "sock_sendto": lambda loop, sock: loop.sock_sendto(sock, b"x", ("127.0.0.1", 9)),
    "sock_connect": lambda loop, sock: loop.sock_connect(sock, ("127.0.0.1", 9)),
    "sock_accept": lambda loop, sock: loop.sock_accept(sock),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
async def test_debug_mode_refuses_blocking_sockets(loop, method):
    loop.set_debug(True)
    loop.slow_callback_duration = 10
    with socket.socket() as sock:
        with pytest.raises(ValueError, match="^the socket must be non-blocking$"):
            await method(loop, sock)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
async def test_ssl_sockets_are_refused(loop, method):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with context.wrap_socket(socket.socket(), server_hostname="x") as sock:
        with pytest.raises(TypeError, match="^Socket cannot be of type SSLSocket$"):
            await method(loop, sock)


@pytest.mark.parametrize("method", ["sock_recv", "sock_sendall", "sock_accept"])
async def test_closed_socket(loop, method):
    sock = socket.socket()
    sock.setblocking(False)
    sock.close()
    with pytest.raises((OSError, ValueError)):
        await METHODS[method](loop, sock)


async def test_socket_of_a_transport_is_off_limits(loop, opened):
    ours, theirs = tcp_pair()
    opened.append(Peer(theirs))
    transport, _ = await loop.connect_accepted_socket(Recorder, ours)
    opened.append(transport)
    with pytest.raises(RuntimeError, match="is used by transport"):
        await loop.sock_recv(ours, 10)


async def test_recv_of_a_reset_connection(loop):
    ours, theirs = tcp_pair()
    with ours:
        ours.setblocking(False)
        reading = asyncio.create_task(loop.sock_recv(ours, 10))
        await asyncio.sleep(0)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reading, 60)
