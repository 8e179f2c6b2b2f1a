import asyncio
import socket

import pytest

from tests.support.fixtures import connect, connect_tcp, ends_clean, make_pair, opened
from tests.support.streams import Collecting, Peer

__all__ = ["connect", "connect_tcp", "ends_clean", "make_pair", "opened"]


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
