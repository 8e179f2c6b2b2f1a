"""`create_server()`, `create_unix_server()` and the connections that they accept."""

import asyncio
import errno
import gc
import os
import resource
import socket
import sys

import pytest

from tests.support.addresses import abstract_name
from tests.support.streams import Collecting, Peer, Recorder


async def test_accepts_and_serves(loop, serve, dial, eventually):
    _, address, factory = await serve()
    peer = dial(address)
    peer.send(b"hello")
    await eventually(lambda: factory.made and factory.made[0].data == b"hello")
    factory.made[0].transport.write(b"welcome")
    assert await peer.read(7) == b"welcome"
    assert factory.made[0].transport.get_extra_info("peername") == peer.sock.getsockname()
    assert factory.made[0].transport.get_extra_info("sockname") == address


async def test_accepted_transports_are_like_the_others(loop, serve, dial, eventually):
    _, address, factory = await serve()
    dial(address)
    await eventually(lambda: factory.made and factory.made[0].transport)
    transport = factory.made[0].transport
    assert isinstance(transport, asyncio.Transport)
    sock = transport.get_extra_info("socket")
    assert sock.gettimeout() == 0
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert not os.get_inheritable(sock.fileno())


async def test_one_protocol_per_connection(loop, serve, dial, eventually):
    _, address, factory = await serve()
    peers = [dial(address) for _ in range(20)]
    for number, peer in enumerate(peers):
        peer.send(b"%d" % number)
    await eventually(lambda: sum(bool(protocol.data) for protocol in factory.made) == 20)
    assert len(set(map(id, factory.made))) == 20
    assert {int(protocol.data) for protocol in factory.made} == set(range(20))


async def test_burst_of_connections(loop, serve, dial, eventually):
    """More than one accept batch."""
    _, address, factory = await serve(backlog=20)
    peers = [dial(address) for _ in range(300) if await asyncio.sleep(0) is None]
    await eventually(lambda: len(factory.made) == 300)
    assert len(peers) == 300


async def test_connections_that_wait_before_serving_starts(loop, serve, dial, eventually):
    server, address, factory = await serve(start_serving=False)
    assert server.is_serving() is False
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    await server.start_serving()
    assert server.is_serving() is True
    await server.start_serving()
    dial(address)
    await eventually(lambda: factory.made)


async def test_properties(loop, serve):
    server, _, _ = await serve()
    assert server.get_loop() is loop
    assert server.is_serving() is True
    assert isinstance(server, asyncio.AbstractServer)
    assert isinstance(server, asyncio.Server)
    (sock,) = server.sockets
    assert type(sock).__name__ == "TransportSocket"
    assert "Server" in repr(server)
    server.close()
    assert server.sockets == ()
    assert server.is_serving() is False


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
async def test_port_zero_and_several_hosts(loop, serve, dial, eventually):
    server, _, factory = await serve(host=["127.0.0.1", "127.0.0.2"])
    addresses = [sock.getsockname() for sock in server.sockets]
    assert {host for host, _ in addresses} == {"127.0.0.1", "127.0.0.2"}
    for address in addresses:
        dial(address)
    await eventually(lambda: len(factory.made) == 2)


@pytest.mark.parametrize("host", [None, ""])
async def test_all_interfaces(loop, serve, dial, eventually, host):
    server, _, factory = await serve(host=host)
    families = {sock.family for sock in server.sockets}
    assert socket.AF_INET in families
    for sock in server.sockets:
        target = "::1" if sock.family == socket.AF_INET6 else "127.0.0.1"
        dial((target, sock.getsockname()[1]))
    await eventually(lambda: len(factory.made) == len(server.sockets))


async def test_family(loop, serve):
    server, _, _ = await serve(host=None, family=socket.AF_INET)
    assert {sock.family for sock in server.sockets} == {socket.AF_INET}


async def test_reuse_address_is_on_by_default(loop, serve):
    server, _, _ = await serve()
    assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


async def test_reuse_address_can_be_off(loop, serve):
    server, _, _ = await serve(reuse_address=False)
    assert not server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


async def test_reuse_port(loop, serve, dial, eventually):
    _, address, first = await serve(reuse_port=True)
    _, _, second = await serve(port=address[1], reuse_port=True)
    for _ in range(50):
        dial(address)
    await eventually(lambda: len(first.made) + len(second.made) == 50)


async def test_address_in_use(loop, serve):
    _, address, _ = await serve()
    with pytest.raises(OSError, match="error while attempting to bind on address") as caught:
        await loop.create_server(Recorder, *address)
    assert caught.value.errno == errno.EADDRINUSE


async def test_given_socket(loop, dial, eventually):
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    factory = Collecting()
    server = await loop.create_server(factory, sock=sock)
    assert server.sockets[0].fileno() == sock.fileno()
    peer = dial(sock.getsockname())
    await eventually(lambda: factory.made)
    peer.close()
    await eventually(lambda: factory.made[0].lost)
    server.close()
    await server.wait_closed()
    assert sock.fileno() == -1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Neither host/port nor sock were specified"),
        (
            {"host": "127.0.0.1", "port": 0, "ssl_handshake_timeout": 1},
            "ssl_handshake_timeout is only meaningful with ssl",
        ),
        (
            {"host": "127.0.0.1", "port": 0, "ssl_shutdown_timeout": 1},
            "ssl_shutdown_timeout is only meaningful with ssl",
        ),
    ],
)
async def test_arguments_that_do_not_go_together(loop, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        await loop.create_server(Recorder, **options)


async def test_host_and_sock(loop):
    with socket.socket() as sock:
        with pytest.raises(ValueError, match="host/port and sock can not be specified"):
            await loop.create_server(Recorder, "127.0.0.1", 0, sock=sock)


async def test_datagram_socket(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="^A Stream Socket was expected, got "):
            await loop.create_server(Recorder, sock=sock)


async def test_ssl_argument_has_to_be_a_context(loop):
    with pytest.raises(TypeError, match="^ssl argument must be an SSLContext or None$"):
        await loop.create_server(Recorder, "127.0.0.1", 0, ssl=True)


@pytest.mark.improves_on_asyncio
async def test_protocol_factory_that_raises(loop, serve, dial, unhandled):
    """Reported in debug mode as in asyncio, which leaves the socket to the garbage collector."""
    answers = [ZeroDivisionError("broken"), None]
    good = Collecting()

    def factory():
        if answer := answers.pop(0):
            raise answer
        return good()

    loop.set_debug(True)
    _, address, _ = await serve(factory)
    peer = dial(address)
    assert await peer.read_to_end() == b""
    (context,) = unhandled
    assert context["message"] == "Error on transport creation for incoming connection"
    assert isinstance(context["exception"], ZeroDivisionError)
    second = dial(address)
    second.send(b"x")
    while not (good.made and good.made[0].data):
        await asyncio.sleep(0.001)
    good.made[0].transport.abort()


async def test_connection_made_that_raises_leaves_the_server_working(
    loop, serve, dial, eventually, unhandled
):
    class Broken(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            if self is factory.made[0]:
                raise ZeroDivisionError

    factory = Collecting(Broken)
    _, address, _ = await serve(factory)
    dial(address)
    second = dial(address)
    second.send(b"hello")
    await eventually(lambda: len(factory.made) == 2 and factory.made[1].data == b"hello")
    assert isinstance(unhandled[0]["exception"], ZeroDivisionError)


async def test_client_that_is_gone_before_the_accept(loop, serve, dial, eventually):
    _, address, factory = await serve()
    for _ in range(5):
        dial(address).reset()
    peer = dial(address)
    peer.send(b"alive")
    await eventually(lambda: any(protocol.data == b"alive" for protocol in factory.made))
    await eventually(lambda: all(protocol.lost or protocol.data for protocol in factory.made))


async def test_out_of_file_descriptors(loop, serve, dial, eventually, unhandled, monkeypatch):
    """Reported, retried after a while, and the waiting client is served then."""
    monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.05)
    _, address, factory = await serve()
    peer = dial(address)
    hoard = []
    gc.collect()  # no garbage gives descriptors back meanwhile
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        while True:
            try:
                hoard.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        await eventually(lambda: unhandled)
        await asyncio.sleep(0.02)
        assert factory.made == []
        assert len(unhandled) <= 101, "at most once for each place in the backlog"
    finally:
        for fd in hoard:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert unhandled[0]["message"] == "socket.accept() out of system resource"
    assert unhandled[0]["exception"].errno == errno.EMFILE
    assert unhandled[0]["socket"].getsockname() == address
    peer.send(b"patience")
    await eventually(lambda: factory.made and factory.made[0].data == b"patience")


async def test_unix_server(loop, opened, eventually, tmp_path):
    path = str(tmp_path / "socket")
    factory = Collecting()
    server = await loop.create_unix_server(factory, path)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    peer = Peer(sock)
    opened.append(peer)
    peer.send(b"hello")
    await eventually(lambda: factory.made and factory.made[0].data == b"hello")
    transport = factory.made[0].transport
    assert transport.get_extra_info("sockname") == path
    assert transport.get_extra_info("peername") == ""
    transport.write(b"welcome")
    assert await peer.read(7) == b"welcome"
    peer.close()
    await eventually(lambda: factory.made[0].lost)
    server.close()
    await server.wait_closed()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux only")
async def test_abstract_unix_server(loop, eventually):
    name = abstract_name().decode()
    factory = Collecting()
    server = await loop.create_unix_server(factory, name)
    transport, client = await loop.create_unix_connection(Recorder, name)
    transport.write(b"hello")
    await eventually(lambda: factory.made and factory.made[0].data == b"hello")
    assert transport.get_extra_info("peername") == name.encode()
    transport.close()
    await eventually(lambda: client.lost and factory.made[0].lost)
    server.close()
    await server.wait_closed()


async def test_many_servers(loop, serve, dial, eventually):
    servers = [await serve() for _ in range(30)]
    for _, address, _ in servers:
        dial(address)
    await eventually(lambda: all(factory.made for _, _, factory in servers))


def test_listener_serves_only_while_the_loop_runs(loop, dial, run_until):
    factory = Collecting()
    server = loop.run_until_complete(loop.create_server(factory, "127.0.0.1", 0))
    peer = dial(server.sockets[0].getsockname())
    assert factory.made == []
    run_until(lambda: factory.made)
    peer.close()
    run_until(lambda: factory.made[0].lost)
    server.close()
    loop.run_until_complete(server.wait_closed())
