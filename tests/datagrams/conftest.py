import socket

import pytest

from tests.support.datagrams import Recorder, refusing_port
from tests.support.fixtures import ends_clean, folder, opened

__all__ = ["ends_clean", "folder", "opened"]


@pytest.fixture
def open_endpoint(loop, opened):
    """``transport, protocol = await open_endpoint(protocol, **arguments)``, closed at the end."""

    async def open_endpoint(protocol=None, **arguments):
        protocol = protocol or Recorder()
        if not arguments:
            arguments = {"local_addr": ("127.0.0.1", 0)}
        transport, made = await loop.create_datagram_endpoint(lambda: protocol, **arguments)
        opened.append(transport)
        assert made is protocol
        return transport, protocol

    return open_endpoint


@pytest.fixture
def refusing():
    """A port that refuses datagrams."""
    with refusing_port() as port:
        yield port


@pytest.fixture
def pair(open_endpoint, opened):
    """A transport on one end of a connected pair of Unix sockets, and the other end."""

    async def pair(protocol=None):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        opened.append(theirs)
        theirs.setblocking(False)
        transport, protocol = await open_endpoint(protocol, sock=ours)
        return transport, protocol, theirs

    return pair


@pytest.fixture
def connected(open_endpoint, opened, folder):
    """A transport that is connected to a named Unix socket, which fills up; and that socket."""

    async def connected(protocol=None):
        theirs = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        opened.append(theirs)
        theirs.bind(f"{folder}/theirs")
        theirs.setblocking(False)
        transport, protocol = await open_endpoint(
            protocol, family=socket.AF_UNIX, remote_addr=f"{folder}/theirs"
        )
        return transport, protocol, theirs

    return connected
