import asyncio
import socket

import pytest

from .support import Recorder, unix_folder


@pytest.fixture(autouse=True)
def _clean_end(clean_end):
    """Every test here has to end clean."""


@pytest.fixture
def opened(loop):
    """Transports and sockets to be closed when the test is over."""
    things = []
    yield things
    for thing in things:
        if isinstance(thing, socket.socket):
            thing.close()
        elif not loop.is_closed() and not thing.is_closing():
            thing.abort()
    if not loop.is_closed():
        for _ in range(3):
            loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def folder():
    with unix_folder() as path:
        yield path


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
