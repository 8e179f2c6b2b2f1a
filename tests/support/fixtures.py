"""Fixtures that conftest.py files of several folders import."""

import asyncio
import socket

import pytest

from .addresses import unix_folder
from .streams import Peer, Recorder, tcp_pair, unix_pair


@pytest.fixture(autouse=True)
def ends_clean(clean_end):
    """Every test of a folder that imports this has to end clean."""


@pytest.fixture
def folder():
    """A directory with a short path, for Unix sockets."""
    with unix_folder() as path:
        yield path


@pytest.fixture
def opened(loop):
    """Transports, stream writers, sockets and peers to be closed when the test is over."""
    things = []
    yield things
    for thing in things:
        if isinstance(thing, (Peer, socket.socket)):
            thing.close()
        elif not loop.is_closed():
            # Also if its socket is closed: newer Pythons close it when a second transport fails.
            getattr(thing, "transport", thing).abort()
    if not loop.is_closed():
        for _ in range(3):
            loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture(params=[tcp_pair, unix_pair], ids=["tcp", "unix"])
def make_pair(request):
    """Makes two connected stream sockets; tests with it run over TCP and over Unix sockets."""
    return request.param


async def attach(loop, opened, pair, protocol):
    ours, theirs = pair
    peer = Peer(theirs)
    opened.append(peer)
    transport, made = await loop.connect_accepted_socket(lambda: protocol, ours)
    opened.append(transport)
    assert made is protocol
    return transport, peer


@pytest.fixture
def connect(loop, opened, make_pair):
    """``transport, peer = await connect(protocol)`` over TCP and over Unix sockets."""

    async def connect(protocol=None):
        return await attach(loop, opened, make_pair(), protocol or Recorder())

    return connect


@pytest.fixture
def connect_tcp(loop, opened):
    """The same, TCP only."""

    async def connect(protocol=None):
        return await attach(loop, opened, tcp_pair(), protocol or Recorder())

    return connect
