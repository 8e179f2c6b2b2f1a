"""create_datagram_endpoint(): what it takes, and what it gives."""

import asyncio
import os
import socket
import threading

import pytest

from tests.support.addresses import HOSTS
from tests.support.datagrams import (
    Echo,
    Recorder,
    plain_socket,
    receive,
    unix_datagram,
)


async def test_transport_is_a_datagram_transport(open_endpoint):
    transport, protocol = await open_endpoint()
    # Up to Python 3.11 asyncio's own is not.
    if type(transport).__module__ != "asyncio.selector_events":
        assert isinstance(transport, asyncio.DatagramTransport)
    assert isinstance(transport, asyncio.BaseTransport)
    assert protocol.names == ["connection_made"]
    assert protocol.transport is transport
    assert transport.get_protocol() is protocol
    assert transport.is_reading()
    assert not transport.is_closing()


@pytest.mark.improves_on_asyncio
async def test_transport_is_native(open_endpoint):
    import hybridloop._core as core
    from hybridloop.loop.datagrams import DatagramTransport

    transport, _ = await open_endpoint()
    assert type(transport) is DatagramTransport
    assert isinstance(transport, core.DatagramTransport)


@pytest.mark.parametrize("host", HOSTS)
async def test_echo(open_endpoint, opened, host):
    transport, protocol = await open_endpoint(Echo(), local_addr=(host, 0))
    address = transport.get_extra_info("sockname")
    for _ in range(3):
        peer = plain_socket(host)
        opened.append(peer)
        for data in (b"1", b"22" * 300, b"3" * 20_000):
            peer.sendto(data, address)
            assert await receive(peer) == (data, address)
            assert protocol.received[-1] == (data, peer.getsockname())


@pytest.mark.parametrize("host", HOSTS)
async def test_connected(open_endpoint, opened, host, eventually):
    peer = plain_socket(host)
    opened.append(peer)
    transport, protocol = await open_endpoint(remote_addr=peer.getsockname()[:2])
    assert transport.get_extra_info("peername") == peer.getsockname()
    transport.sendto(b"hello")
    assert await receive(peer) == (b"hello", transport.get_extra_info("sockname"))
    # The address may be given, if it is that of the peer.
    transport.sendto(b"again", peer.getsockname())
    assert (await receive(peer))[0] == b"again"
    peer.sendto(b"reply", transport.get_extra_info("sockname"))
    await eventually(lambda: protocol.received)
    assert protocol.received == [(b"reply", peer.getsockname())]
    with pytest.raises(ValueError) as caught:
        transport.sendto(b"elsewhere", ("127.0.0.1", 9))
    assert str(caught.value) == f"Invalid address: must be None or {peer.getsockname()}"


async def test_two_endpoints_talk(open_endpoint, eventually):
    server, echo = await open_endpoint(Echo())
    client, protocol = await open_endpoint(remote_addr=server.get_extra_info("sockname"))
    for number in range(100):
        client.sendto(b"%d" % number)
        await eventually(lambda: len(protocol.received) == number + 1)  # noqa: B023
    assert [data for data, _ in protocol.received] == [b"%d" % number for number in range(100)]
    assert {address for _, address in echo.received} == {client.get_extra_info("sockname")}


async def test_own_socket(open_endpoint, opened):
    ours, theirs = plain_socket(), plain_socket()
    opened.append(theirs)
    transport, _ = await open_endpoint(sock=ours)
    assert ours.gettimeout() == 0
    info = transport.get_extra_info("socket")
    assert info.fileno() == ours.fileno()
    assert info.family == socket.AF_INET
    assert transport.get_extra_info("peername") is None
    assert transport.get_extra_info("nothing", "default") == "default"
    transport.sendto(b"hello", theirs.getsockname())
    assert (await receive(theirs))[0] == b"hello"


async def test_own_connected_socket_needs_no_address(open_endpoint, opened):
    ours, theirs = plain_socket(), plain_socket()
    opened.append(theirs)
    ours.connect(theirs.getsockname())
    transport, _ = await open_endpoint(sock=ours)
    transport.sendto(b"hello")
    assert (await receive(theirs))[0] == b"hello"
    # As in asyncio, the socket's peer is the one that counts.
    transport.sendto(b"ignored address", ("127.0.0.1", 9))
    assert (await receive(theirs))[0] == b"ignored address"


async def test_stream_socket_is_refused(loop):
    with socket.socket() as sock, pytest.raises(ValueError, match="ocket was expected, got"):
        await loop.create_datagram_endpoint(Recorder, sock=sock)


async def test_socket_and_its_modifiers_are_refused(loop):
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        pytest.raises(ValueError, match="can not be used when sock is specified"),
    ):
        await loop.create_datagram_endpoint(Recorder, sock=sock, local_addr=("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, ValueError),
        ({"local_addr": "127.0.0.1"}, TypeError),
        ({"local_addr": ("127.0.0.1", 0, 0)}, TypeError),
        ({"family": socket.AF_UNIX, "local_addr": ("x", 1)}, TypeError),
        ({"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 1)}, ValueError),
    ],
)
async def test_bad_arguments(loop, arguments, error):
    with pytest.raises(error):
        await loop.create_datagram_endpoint(Recorder, **arguments)


async def test_address_in_use(loop, opened):
    taken = plain_socket()
    opened.append(taken)
    with pytest.raises(OSError, match="in use"):
        await loop.create_datagram_endpoint(Recorder, local_addr=taken.getsockname())


async def test_reuse_port(open_endpoint):
    first, _ = await open_endpoint(local_addr=("127.0.0.1", 0), reuse_port=True)
    address = first.get_extra_info("sockname")
    second, _ = await open_endpoint(local_addr=address, reuse_port=True)
    assert second.get_extra_info("sockname") == address
    option = (socket.SOL_SOCKET, socket.SO_REUSEPORT)
    assert second.get_extra_info("socket").getsockopt(*option)


async def test_allow_broadcast(open_endpoint, opened):
    transport, protocol = await open_endpoint(
        family=socket.AF_INET, local_addr=("127.0.0.1", 0), allow_broadcast=True
    )
    assert transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
    peer = socket.socket(type=socket.SOCK_DGRAM)
    opened.append(peer)
    peer.bind(("", 0))
    port = peer.getsockname()[1]
    # A machine without a network for it answers with an error, never with a permission error.
    for address in (("<broadcast>", port), ("127.255.255.255", port)):
        transport.sendto(b"to all", address)
    assert not [error for error in protocol.errors if isinstance(error, PermissionError)]
    assert (await receive(peer))[0] == b"to all"


async def test_broadcast_with_a_remote_address_is_not_connected(open_endpoint, opened):
    peer = plain_socket()
    opened.append(peer)
    transport, _ = await open_endpoint(remote_addr=peer.getsockname(), allow_broadcast=True)
    assert transport.get_extra_info("peername") is None
    transport.sendto(b"hello")
    assert (await receive(peer))[0] == b"hello"


async def test_broadcast_is_refused_without_it(open_endpoint):
    transport, protocol = await open_endpoint()
    transport.sendto(b"to all", ("<broadcast>", 9))
    assert [type(error) for error in protocol.errors] == [PermissionError]
    assert not transport.is_closing()


async def test_failing_connection_made(loop, opened, unhandled, eventually):
    class Broken(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError

    transport, protocol = await loop.create_datagram_endpoint(Broken, local_addr=("127.0.0.1", 0))
    opened.append(transport)
    assert [type(context["exception"]) for context in unhandled] == [ZeroDivisionError]
    with plain_socket() as peer:
        peer.sendto(b"still here", transport.get_extra_info("sockname"))
        await eventually(lambda: protocol.received)


async def test_cancelled_while_it_is_made(loop, unhandled):
    made = []

    def factory():
        made.append(Recorder())
        task.cancel()
        return made[0]

    task = loop.create_task(loop.create_datagram_endpoint(factory, local_addr=("127.0.0.1", 0)))
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(3):
        await asyncio.sleep(0)
    assert made[0].names in (["connection_made", "connection_lost"], ["connection_lost"])
    assert not unhandled


async def test_descriptor_belongs_to_the_transport(loop, open_endpoint):
    transport, _ = await open_endpoint()
    fd = transport.get_extra_info("socket").fileno()
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.add_reader(fd, print)
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.add_writer(fd, print)
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.remove_reader(fd)
    transport.close()
    await asyncio.sleep(0)


async def test_extra_info_in_another_thread(open_endpoint, refusing):
    transport, _ = await open_endpoint(remote_addr=("127.0.0.1", refusing))
    seen = []

    def look():
        for name in ("socket", "sockname", "peername"):
            seen.append(transport.get_extra_info(name))
        seen[0] = seen[0].fileno()
        seen.append(repr(transport))

    thread = threading.Thread(target=look)
    thread.start()
    await asyncio.get_running_loop().run_in_executor(None, thread.join)
    sock = transport.get_extra_info("socket")
    assert seen[:3] == [sock.fileno(), sock.getsockname(), sock.getpeername()]
    assert f"fd={sock.fileno()}" in seen[3]


async def test_repr(open_endpoint, eventually):
    transport, protocol = await open_endpoint()
    fd = transport.get_extra_info("socket").fileno()
    assert repr(transport).endswith(f" fd={fd} read=polling write=<idle, bufsize=0>>")
    transport.close()
    assert f" closing fd={fd} " in repr(transport)
    await eventually(lambda: protocol.lost)
    assert f" closed fd={fd}" in repr(transport)


async def test_debug_mode_names_the_endpoint(loop, open_endpoint, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 10
    with caplog.at_level("INFO", logger="asyncio"):
        transport, _ = await open_endpoint()
    assert "Datagram endpoint local_addr=('127.0.0.1', 0)" in caplog.text
    assert f" fd={transport.get_extra_info('socket').fileno()} " in caplog.text


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="netlink is Linux's")
async def test_a_family_that_only_python_knows(open_endpoint):
    """Other address families work by asyncio's own transport."""
    request = bytes.fromhex("14000000 1200 0103 01000000 00000000") + b"\0" * 4
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)  # NETLINK_ROUTE
    except OSError as error:
        pytest.skip(f"no netlink here: {error}")
    sock.bind((0, 0))
    transport, protocol = await open_endpoint(sock=sock)
    transport.sendto(request, (0, 0))
    deadline = asyncio.get_running_loop().time() + 60
    while not protocol.received and not protocol.errors:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)
    assert protocol.received[0][1] == (0, 0)


async def test_stale_unix_socket_is_replaced(open_endpoint, folder):
    path = f"{folder}/ours"
    unix_datagram(path).close()
    assert os.path.exists(path)
    transport, _ = await open_endpoint(family=socket.AF_UNIX, local_addr=path)
    assert transport.get_extra_info("sockname") == path
