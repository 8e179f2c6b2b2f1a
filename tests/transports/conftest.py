import asyncio
import socket

import pytest

from .support import Collecting, Peer, Recorder, tcp_pair, unix_pair


@pytest.fixture(autouse=True)
def _clean_end(clean_end):
    """Every test here has to end clean."""


@pytest.fixture(params=[tcp_pair, unix_pair], ids=["tcp", "unix"])
def make_pair(request):
    """Makes two connected stream sockets; tests that ask for it run over TCP and Unix sockets."""
    return request.param


@pytest.fixture
def opened(loop):
    """Transports and peers to be closed when the test is over."""
    things = []
    yield things
    for thing in things:
        if isinstance(thing, Peer):
            thing.close()
        elif not loop.is_closed():
            # Also one whose socket was closed: newer Pythons do that when a second transport fails.
            thing.abort()
    if not loop.is_closed():
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))


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


@pytest.fixture
def serve(loop):
    """``server, address, factory = await serve(...)``; closed after the test."""
    servers = []

    async def serve(factory=None, host="127.0.0.1", port=0, **options):
        factory = factory or Collecting()
        server = await loop.create_server(factory, host, port, **options)
        servers.append((server, factory))
        return server, server.sockets[0].getsockname(), factory

    yield serve
    for server, factory in servers:
        server.close()
        for protocol in getattr(factory, "made", ()):
            if protocol.transport is not None and not protocol.lost:
                protocol.transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def dial(opened):
    def dial(address):
        peer = Peer(socket.create_connection(address[:2]))
        opened.append(peer)
        return peer

    return dial
