"""create_connection: addresses, sockets, happy eyeballs, errors."""

import asyncio
import socket
import sys
import time

import pytest

from tests.support.descriptors import is_open, open_fds
from tests.support.streams import Recorder

needs_all_errors = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="all_errors is new in Python 3.12"
)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def address(listener):
    return listener.getsockname()


@pytest.fixture
def refusing():
    """Two addresses that nobody listens on: bound, so nobody else can take them either."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        yield one.getsockname(), other.getsockname()


def fake_getaddrinfo(loop, *addresses):
    """Let one name resolve to the given addresses."""

    async def getaddrinfo(host, port, *, family=0, type=0, proto=0, flags=0):
        return [
            (
                socket.AF_INET6 if ":" in address[0] else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                address,
            )
            for address in addresses
        ]

    loop.getaddrinfo = getaddrinfo


async def test_host_and_port(loop, opened, listener, address):
    transport, protocol = await loop.create_connection(Recorder, *address)
    opened.append(transport)
    assert protocol.calls == [("connection_made", transport)]
    assert transport.get_extra_info("peername") == address
    accepted, peername = listener.accept()
    with accepted:
        assert transport.get_extra_info("sockname") == peername
        transport.write(b"hello")
        await asyncio.sleep(0)
        accepted.settimeout(60)
        assert accepted.recv(10) == b"hello"


async def test_host_name(loop, opened, listener, address):
    transport, _ = await loop.create_connection(
        Recorder, "localhost", address[1], family=socket.AF_INET
    )
    opened.append(transport)
    assert transport.get_extra_info("peername") == address


async def test_ipv6(loop, opened):
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    with listener:
        transport, _ = await loop.create_connection(Recorder, "::1", listener.getsockname()[1])
        opened.append(transport)
        assert transport.get_extra_info("peername") == listener.getsockname()
        assert len(transport.get_extra_info("sockname")) == 4


async def test_connected_socket(loop, opened, listener, address):
    sock = socket.create_connection(address)
    transport, _ = await loop.create_connection(Recorder, sock=sock)
    opened.append(transport)
    assert transport.get_extra_info("socket").fileno() == sock.fileno()
    assert transport.get_extra_info("peername") == address
    assert sock.gettimeout() == 0


async def test_unix_socket_by_sock(loop, opened):
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await loop.create_connection(Recorder, sock=ours)
        opened.append(transport)
        transport.write(b"unix")
        await asyncio.sleep(0)
        assert theirs.recv(10) == b"unix"


async def test_local_address(loop, opened, listener, address):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        local = probe.getsockname()
    transport, _ = await loop.create_connection(Recorder, *address, local_addr=local)
    opened.append(transport)
    assert transport.get_extra_info("sockname") == local


async def test_local_address_in_use(loop, listener, address):
    with pytest.raises(OSError, match="error while attempting to bind on address"):
        await loop.create_connection(Recorder, *address, local_addr=address)


async def test_refused(loop, refusing):
    with pytest.raises(ConnectionRefusedError) as caught:
        await loop.create_connection(Recorder, *refusing[0])
    assert "Connect call failed ('127.0.0.1', " in str(caught.value)


async def test_refused_by_every_address(loop, refusing):
    fake_getaddrinfo(loop, *refusing)
    with pytest.raises(OSError, match="^Multiple exceptions: "):
        await loop.create_connection(Recorder, "somewhere", 1)


@needs_all_errors
async def test_all_errors(loop, refusing):
    fake_getaddrinfo(loop, *refusing)
    with pytest.raises(ExceptionGroup) as caught:
        await loop.create_connection(Recorder, "somewhere", 1, all_errors=True)
    assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError] * 2


async def test_second_address_is_tried(loop, opened, listener, address, refusing):
    fake_getaddrinfo(loop, refusing[0], address)
    transport, _ = await loop.create_connection(Recorder, "somewhere", 1)
    opened.append(transport)
    assert transport.get_extra_info("peername") == address


@pytest.fixture
def black_hole():
    """An address that takes a connection and never answers: a listener with a full queue."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    stuffing = []
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        try:
            sock.connect(listener.getsockname())
        except BlockingIOError:
            pass
        stuffing.append(sock)
    yield listener.getsockname()
    for sock in (*stuffing, listener):
        sock.close()


needs_full_backlog = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems refuse instead when a listen queue is full"
)


@needs_full_backlog
async def test_happy_eyeballs_passes_a_silent_address(loop, opened, listener, address, black_hole):
    fake_getaddrinfo(loop, black_hole, address)
    start = time.monotonic()
    # Without the other address it would take the system two minutes to give up.
    transport, _ = await loop.create_connection(Recorder, "somewhere", 1, happy_eyeballs_delay=0.05)
    opened.append(transport)
    assert transport.get_extra_info("peername") == address
    assert time.monotonic() - start < 60


@needs_full_backlog
async def test_happy_eyeballs_loser_is_closed(
    loop, opened, listener, address, black_hole, eventually
):
    fake_getaddrinfo(loop, black_hole, black_hole, address)
    before = open_fds()
    for _ in range(3):
        transport, _ = await loop.create_connection(
            Recorder, "somewhere", 1, happy_eyeballs_delay=0.01
        )
        opened.append(transport)
        used = {it.get_extra_info("socket").fileno() for it in opened}
        await eventually(lambda used=used: open_fds() - before <= used)


async def test_interleave(loop, opened, listener, address):
    """Families alternate: the IPv4 address comes second, not third."""
    dead = ("::1", 9, 0, 0)
    fake_getaddrinfo(loop, dead, dead, address)
    tried = []
    original = loop.sock_connect

    async def sock_connect(sock, where):
        tried.append(where)
        return await original(sock, where)

    loop.sock_connect = sock_connect
    transport, _ = await loop.create_connection(Recorder, "somewhere", 1, interleave=1)
    opened.append(transport)
    assert tried == [dead, address]


@needs_full_backlog
async def test_cancelling_a_connect(loop, black_hole):
    task = asyncio.create_task(loop.create_connection(Recorder, *black_hole))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@needs_full_backlog
async def test_timing_out(loop, black_hole):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(loop.create_connection(Recorder, *black_hole), 0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "host and port was not specified and no sock specified"),
        (
            {"host": "127.0.0.1", "port": 1, "server_hostname": "x"},
            "server_hostname is only meaningful with ssl",
        ),
        ({"ssl": True, "port": 1}, "You must set server_hostname when using ssl without a host"),
        (
            {"host": "127.0.0.1", "port": 1, "ssl_handshake_timeout": 1},
            "ssl_handshake_timeout is only meaningful with ssl",
        ),
        (
            {"host": "127.0.0.1", "port": 1, "ssl_shutdown_timeout": 1},
            "ssl_shutdown_timeout is only meaningful with ssl",
        ),
    ],
)
async def test_arguments_that_do_not_go_together(loop, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        await loop.create_connection(Recorder, **options)


async def test_host_and_sock(loop):
    with socket.socket() as sock:
        with pytest.raises(
            ValueError, match="^host/port and sock can not be specified at the same time$"
        ):
            await loop.create_connection(Recorder, "127.0.0.1", 1, sock=sock)


async def test_datagram_socket(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="^A Stream Socket was expected, got "):
            await loop.create_connection(Recorder, sock=sock)


async def test_unresolvable_host(loop):
    with pytest.raises(socket.gaierror):
        await loop.create_connection(Recorder, "host.invalid", 1, flags=socket.AI_NUMERICHOST)


async def test_protocol_factory_that_raises(loop, listener, address):
    def factory():
        raise ZeroDivisionError

    sock = socket.create_connection(address)
    with pytest.raises(ZeroDivisionError):
        await loop.create_connection(factory, sock=sock)
    sock.close()


async def test_connection_made_that_raises(loop, opened, listener, address, unhandled):
    class Broken(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError

    transport, protocol = await loop.create_connection(Broken, *address)
    opened.append(transport)
    assert len(unhandled) == 1
    assert protocol.transport is transport


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="asyncio of Python 3.11 does not look for other transports"
)
async def test_socket_already_used_by_a_transport(loop, opened, listener, address):
    sock = socket.create_connection(address)
    transport, _ = await loop.create_connection(Recorder, sock=sock)
    opened.append(transport)
    with pytest.raises(RuntimeError, match="is used by transport"):
        await loop.create_connection(Recorder, sock=sock)
    # Newer versions of asyncio close the socket of a connection that fails.
    transport.abort()


async def test_many_connections_at_once(loop, opened, eventually):
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=200)
    address = server.sockets[0].getsockname()
    made = await asyncio.gather(*(loop.create_connection(Recorder, *address) for _ in range(100)))
    for number, (transport, _) in enumerate(made):
        transport.write(b"%d" % number)
        transport.close()
    await eventually(lambda: sum(protocol.lost for protocol in protocols) == 100)
    assert sorted(int(protocol.data) for protocol in protocols) == list(range(100))
    server.close()
    await server.wait_closed()


async def test_connect_accepted_socket(loop, opened, listener, address):
    with socket.create_connection(address) as client:
        accepted, _ = listener.accept()
        transport, protocol = await loop.connect_accepted_socket(Recorder, accepted)
        opened.append(transport)
        assert protocol.names == ["connection_made"]
        assert transport.get_extra_info("peername") == client.getsockname()
        transport.write(b"accepted")
        await asyncio.sleep(0)
        client.settimeout(60)
        assert client.recv(10) == b"accepted"


async def test_connect_accepted_socket_refuses_datagrams(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="^A Stream Socket was expected, got "):
            await loop.connect_accepted_socket(Recorder, sock)


async def test_unix_connection(loop, opened, tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        transport, _ = await loop.create_unix_connection(Recorder, path)
        opened.append(transport)
        assert transport.get_extra_info("peername") == path
        accepted, _ = listener.accept()
        with accepted:
            transport.write(b"unix")
            await asyncio.sleep(0)
            assert accepted.recv(10) == b"unix"


async def test_unix_connection_to_nowhere(loop, tmp_path):
    with pytest.raises(FileNotFoundError):
        await loop.create_unix_connection(Recorder, str(tmp_path / "missing"))


async def test_fd_is_closed_when_the_connection_is_lost(
    loop, opened, listener, address, eventually
):
    transport, protocol = await loop.create_connection(Recorder, *address)
    fd = transport.get_extra_info("socket").fileno()
    listener.accept()[0].close()
    await eventually(lambda: protocol.lost)
    assert not is_open(fd)
