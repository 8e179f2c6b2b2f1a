"""Paths, abstract names, and what transports say about themselves."""

import asyncio
import os
import pathlib
import socket
import struct

import pytest

from tests.support.addresses import abstract_name
from tests.support.streams import Echo, Recorder

from .support import linux_only

KINDS = [str, os.fsencode, pathlib.Path]


async def roundtrip(transport, protocol, eventually, data=b"hello"):
    before = len(protocol.data)
    transport.write(data)
    await eventually(lambda: len(protocol.data) - before >= len(data))
    assert protocol.data[before:] == data


@pytest.mark.parametrize("of_server", KINDS)
@pytest.mark.parametrize("of_client", KINDS)
async def test_kinds_of_paths(serve, connect, folder, eventually, of_server, of_client):
    path = f"{folder}/socket"
    server, _ = await serve(of_server(path))
    assert [sock.getsockname() for sock in server.sockets] == [path]
    transport, protocol = await connect(of_client(path))
    await roundtrip(transport, protocol, eventually)


@pytest.mark.parametrize("name", ["grüße", "\udcff\udcfe", "sp ace", "x" * 80])
async def test_any_bytes_in_a_path(serve, connect, folder, eventually, name):
    path = f"{folder}/{name}"
    _, accepted = await serve(path)
    transport, protocol = await connect(path)
    await roundtrip(transport, protocol, eventually)
    assert transport.get_extra_info("peername") == path
    assert accepted[0].transport.get_extra_info("sockname") == path


@linux_only
@pytest.mark.parametrize("kind", [str, str.encode])
async def test_abstract_names(serve, connect, eventually, kind):
    name = abstract_name().decode()
    server, accepted = await serve(kind(name))
    assert [sock.getsockname() for sock in server.sockets] == [name.encode()]
    transport, protocol = await connect(kind(name))
    await roundtrip(transport, protocol, eventually)
    assert transport.get_extra_info("peername") == name.encode()
    assert accepted[0].transport.get_extra_info("sockname") == name.encode()


def addresses(transport):
    return transport.get_extra_info("sockname"), transport.get_extra_info("peername")


async def test_names_of_both_ends(serve, connect, folder, eventually):
    path = f"{folder}/socket"
    _, accepted = await serve(path)
    transport, protocol = await connect(path)
    await roundtrip(transport, protocol, eventually)
    assert addresses(transport) == ("", path)
    assert addresses(accepted[0].transport) == (path, "")


async def test_name_of_a_bound_client(loop, serve, connect, folder, eventually):
    _, accepted = await serve(f"{folder}/socket")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{folder}/client")
    sock.setblocking(False)
    await loop.sock_connect(sock, f"{folder}/socket")
    transport, protocol = await connect(None, sock=sock)
    await roundtrip(transport, protocol, eventually)
    assert addresses(transport) == (f"{folder}/client", f"{folder}/socket")
    assert addresses(accepted[0].transport) == (f"{folder}/socket", f"{folder}/client")


async def test_names_of_a_pair(connect, eventually):
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with theirs:
        transport, protocol = await connect(None, sock=ours)
        assert addresses(transport) == ("", "")
        theirs.send(b"hello")
        await eventually(lambda: protocol.data == b"hello")


async def test_names_are_known_after_the_end(serve, connect, folder, eventually):
    path = f"{folder}/socket"
    _, accepted = await serve(path)
    transport, protocol = await connect(path)
    await roundtrip(transport, protocol, eventually)
    transport.close()
    await eventually(lambda: protocol.lost and accepted[0].lost)
    assert transport.get_extra_info("peername") == path
    assert addresses(accepted[0].transport) == (path, "")


@linux_only
async def test_credentials_of_the_peer(serve, connect, folder, eventually):
    _, accepted = await serve(f"{folder}/socket")
    transport, protocol = await connect(f"{folder}/socket")
    await roundtrip(transport, protocol, eventually)
    for end in (transport, accepted[0].transport):
        sock = end.get_extra_info("socket")
        assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        assert struct.unpack("3i", raw) == (os.getpid(), os.getuid(), os.getgid())


async def test_socket_objects(serve, folder):
    """Of the listener and of the connection, as asyncio shows them."""
    server, _ = await serve(f"{folder}/socket")
    (sock,) = server.sockets
    assert type(sock) is asyncio.trsock.TransportSocket
    assert sock.family == socket.AF_UNIX
    assert sock.gettimeout() == 0


async def test_names_in_connection_made(serve, connect, folder, eventually):
    seen = []

    class Looks(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(addresses(transport))

    path = f"{folder}/socket"
    await serve(path, Looks)
    transport, protocol = await connect(path, Recorder)
    await roundtrip(transport, protocol, eventually)
    assert seen == [(path, "")]
