"""Addresses: what protocols see, and where datagrams go."""

import os
import socket

import pytest

from tests.support.addresses import abstract_name, needs_abstract_names, needs_ipv6
from tests.support.datagrams import (
    Echo,
    plain_socket,
    receive,
    unix_datagram,
)


def link_local():
    """An address of a link and the number of its interface, or `None`."""
    try:
        with open("/proc/net/if_inet6") as lines:
            for line in lines:
                raw, index, _, scope, _, name = line.split()
                if scope == "20":
                    host = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(raw))
                    return host, int(index, 16), name
    except OSError:
        pass
    return None


async def test_host_names_are_resolved(open_endpoint, opened):
    peer = plain_socket()
    opened.append(peer)
    transport, _ = await open_endpoint()
    port = peer.getsockname()[1]
    for host in ("localhost", "127.1", "127.000.000.001", "0x7f.1", "127.0.0.1"):
        transport.sendto(host.encode(), (host, port))
        assert (await receive(peer))[0] == host.encode()


async def test_empty_host_means_any(open_endpoint, opened):
    peer = plain_socket()
    opened.append(peer)
    transport, _ = await open_endpoint()
    transport.sendto(b"hello", ("", peer.getsockname()[1]))
    assert (await receive(peer))[0] == b"hello"


async def test_a_name_that_does_not_resolve(open_endpoint):
    transport, protocol = await open_endpoint()
    transport.sendto(b"lost", ("no.such.host.invalid", 9))
    assert [type(error) for error in protocol.errors] == [socket.gaierror]
    assert not transport.is_closing()


BAD_ADDRESSES = [
    None,
    "127.0.0.1",
    ("127.0.0.1",),
    ("127.0.0.1", 1, 2),
    ("127.0.0.1", "9"),
    ("127.0.0.1", -1),
    ("127.0.0.1", 65536),
    ("127.0.0.1", 2**70),
    (b"\xff\0", 9),
    ("127.0.0.1\0", 9),
    (9, 9),
    ["127.0.0.1", 9],
    pytest.param(object(), id="object()"),
]


@pytest.mark.parametrize("address", BAD_ADDRESSES, ids=lambda address: ascii(address)[:30])
async def test_bad_addresses_end_the_transport(open_endpoint, unhandled, eventually, address):
    """As in asyncio: with the exception of the socket module, as a fatal error."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"x", address)
        except Exception as exception:
            expected = exception
    transport, protocol = await open_endpoint()
    transport.sendto(b"x", address)
    assert transport.is_closing()
    await eventually(lambda: protocol.lost)
    (context,) = unhandled
    assert context["message"] == "Fatal write error on datagram transport"
    assert context["transport"] is transport
    assert context["protocol"] is protocol
    error = context["exception"]
    assert (type(error), str(error)) == (type(expected), str(expected))
    assert protocol.calls[-1] == ("connection_lost", error)
    assert protocol.errors == []


class Tuple(tuple):
    __slots__ = ()


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "wrap", [Tuple, lambda address: (Text(address[0]), address[1])], ids=["tuple", "str"]
)
async def test_subclasses_of_str_and_tuple(open_endpoint, opened, wrap):
    peer = plain_socket()
    opened.append(peer)
    transport, _ = await open_endpoint()
    transport.sendto(b"hello", wrap(peer.getsockname()))
    assert (await receive(peer))[0] == b"hello"


async def test_list_of_peers_in_turn(open_endpoint, opened, eventually):
    """Addresses are remembered, and still everybody gets his own."""
    transport, protocol = await open_endpoint(Echo())
    peers = [plain_socket() for _ in range(5)]
    opened.extend(peers)
    for round_ in range(4):
        for number, peer in enumerate(peers):
            data = b"%d.%d" % (round_, number)
            peer.sendto(data, transport.get_extra_info("sockname"))
            assert (await receive(peer))[0] == data
    assert [address for _, address in protocol.received] == 4 * [
        peer.getsockname() for peer in peers
    ]


async def test_own_tuples_for_the_same_peer(open_endpoint, opened):
    transport, _ = await open_endpoint()
    peers = [plain_socket(), plain_socket()]
    opened.extend(peers)
    ports = [peer.getsockname()[1] for peer in peers]
    for _ in range(3):
        for peer, port in zip(peers, ports, strict=True):
            # Objects that die at once: the next one may stand at the same place in memory.
            transport.sendto(b"%d" % port, ("127.0.0.1", port))
            assert (await receive(peer))[0] == b"%d" % port


@needs_ipv6
@pytest.mark.parametrize("tail", [(), (0,), (0, 0), (5, 0)])
async def test_ipv6_addresses_of_every_length(open_endpoint, opened, tail):
    peer = plain_socket("::1")
    opened.append(peer)
    transport, protocol = await open_endpoint(local_addr=("::1", 0))
    transport.sendto(b"hello", ("::1", peer.getsockname()[1], *tail))
    assert await receive(peer) == (b"hello", transport.get_extra_info("sockname"))
    assert protocol.errors == []


@needs_ipv6
@pytest.mark.parametrize("address", [("::1", 9, 2**20), ("::1", 9, -1), ("::1", 9, 0, 0, 0)])
async def test_bad_ipv6_addresses(open_endpoint, unhandled, eventually, address):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"x", address)
        except Exception as exception:
            expected = exception
    transport, protocol = await open_endpoint(local_addr=("::1", 0))
    transport.sendto(b"x", address)
    await eventually(lambda: protocol.lost)
    error = unhandled[0]["exception"]
    assert (type(error), str(error)) == (type(expected), str(expected))


@needs_ipv6
async def test_flow_information_arrives(open_endpoint, opened, eventually):
    """A sender's flow label is shown as the socket module shows it."""
    plain = plain_socket("::1")
    transport, protocol = await open_endpoint(local_addr=("::1", 0))
    peer = plain_socket("::1")
    opened.extend([plain, peer])
    # IPV6_FLOWINFO: have the kernel report the label of what comes in.
    option = 11
    flow = 0x12345
    try:
        for sock in (plain, transport.get_extra_info("socket")):
            sock.setsockopt(socket.IPPROTO_IPV6, option, 1)
        # IPV6_FLOWINFO_SEND
        peer.setsockopt(socket.IPPROTO_IPV6, 33, 1)
        peer.sendto(b"x", ("::1", plain.getsockname()[1], flow))
    except OSError as error:
        pytest.skip(f"no flow labels here: {error}")
    peer.sendto(b"x", (*transport.get_extra_info("sockname")[:2], flow))
    await eventually(lambda: protocol.received)
    assert protocol.received[0] == (await receive(plain))


@pytest.mark.skipif(link_local() is None, reason="no interface with a link-local IPv6 address")
async def test_scope_is_kept(open_endpoint, opened, eventually):
    host, index, name = link_local()
    transport, protocol = await open_endpoint(Echo(), local_addr=(f"{host}%{name}", 0))
    address = transport.get_extra_info("sockname")
    assert address[0] == host
    assert address[3] == index
    peer = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    opened.append(peer)
    peer.bind((host, 0, 0, index))
    peer.sendto(b"hello", address)
    assert await receive(peer) == (b"hello", address)
    assert protocol.received == [(b"hello", peer.getsockname())]
    transport.sendto(b"zone", (f"{host}%{name}", peer.getsockname()[1]))
    assert (await receive(peer))[0] == b"zone"


async def test_unix_paths(open_endpoint, opened, folder, eventually):
    transport, protocol = await open_endpoint(
        Echo(), family=socket.AF_UNIX, local_addr=f"{folder}/ours"
    )
    peer = unix_datagram(f"{folder}/theirs")
    opened.append(peer)
    peer.sendto(b"hello", f"{folder}/ours")
    assert await receive(peer) == (b"hello", f"{folder}/ours")
    assert protocol.received == [(b"hello", f"{folder}/theirs")]
    for address in (f"{folder}/theirs", f"{folder}/theirs".encode()):
        transport.sendto(b"sent", address)
        assert (await receive(peer))[0] == b"sent"


@pytest.mark.parametrize("name", ["grüße", "\udcff\udcfe", "sp ace", "x" * 60])
async def test_unix_paths_of_any_bytes(open_endpoint, opened, folder, name):
    path = f"{folder}/{name}"
    peer = unix_datagram(path)
    opened.append(peer)
    transport, protocol = await open_endpoint(
        Echo(), family=socket.AF_UNIX, local_addr=f"{folder}/ours"
    )
    peer.sendto(b"hello", f"{folder}/ours")
    assert (await receive(peer))[0] == b"hello"
    assert protocol.received == [(b"hello", peer.getsockname())]
    transport.sendto(b"bytes", os.fsencode(path))
    assert (await receive(peer))[0] == b"bytes"


async def test_unix_sender_without_a_name(open_endpoint, opened, folder, eventually, unhandled):
    transport, protocol = await open_endpoint(family=socket.AF_UNIX, local_addr=f"{folder}/ours")
    plain = unix_datagram(f"{folder}/plain")
    peer = unix_datagram()
    opened.extend([peer, plain])
    peer.sendto(b"hello", f"{folder}/plain")
    peer.sendto(b"hello", f"{folder}/ours")
    await eventually(lambda: protocol.received)
    assert protocol.received == [await receive(plain)]
    assert not unhandled


@needs_abstract_names
async def test_unix_abstract_names(open_endpoint, opened):
    name, other = abstract_name(), abstract_name()
    peer = unix_datagram(name)
    opened.append(peer)
    transport, protocol = await open_endpoint(
        Echo(), family=socket.AF_UNIX, local_addr=other.decode()
    )
    assert transport.get_extra_info("sockname") == other
    peer.sendto(b"hello", other)
    assert await receive(peer) == (b"hello", other)
    assert protocol.received == [(b"hello", name)]
    transport.sendto(b"text", name.decode())
    assert (await receive(peer))[0] == b"text"


@pytest.mark.parametrize(
    "address",
    [9, ("x", 9), "x" * 200, "x\0y", b"y" * 200],
    ids=["int", "tuple", "long str", "NUL", "long bytes"],
)
async def test_bad_unix_addresses(open_endpoint, unhandled, eventually, folder, address):
    with unix_datagram() as sock:
        try:
            sock.sendto(b"x", address)
        except Exception as exception:
            expected = exception
    transport, protocol = await open_endpoint(family=socket.AF_UNIX, local_addr=f"{folder}/ours")
    transport.sendto(b"x", address)
    if isinstance(expected, OSError):
        (error,) = protocol.errors
    else:
        await eventually(lambda: protocol.lost)
        error = unhandled[0]["exception"]
    assert (type(error), str(error)) == (type(expected), str(expected))


@pytest.mark.improves_on_asyncio
async def test_pair_without_names(pair, eventually):
    """asyncio takes the nameless peer for no peer and fails."""
    transport, protocol, theirs = await pair(Echo())
    transport.sendto(b"hello")
    assert theirs.recv(10) == b"hello"
    theirs.send(b"back")
    await eventually(lambda: protocol.received)
    assert protocol.received == [(b"back", None)]
    assert theirs.recv(10) == b"back"
