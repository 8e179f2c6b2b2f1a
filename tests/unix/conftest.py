import asyncio

import pytest

from tests.support.fixtures import ends_clean, folder
from tests.support.streams import Echo, Recorder

__all__ = ["ends_clean", "folder"]


@pytest.fixture
def serve(loop):
    """``server, protocols = await serve(path, factory)``, closed at the end."""
    servers, everybody = [], []

    async def serve(path=None, factory=Echo, **options):
        protocols = []

        def make():
            protocols.append(factory())
            everybody.append(protocols[-1])
            return protocols[-1]

        server = await loop.create_unix_server(make, path, **options)
        servers.append(server)
        return server, protocols

    yield serve
    if loop.is_closed():
        return
    for server in servers:
        server.close()
    for protocol in everybody:
        if protocol.transport is not None and not protocol.lost:
            protocol.transport.abort()
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def connect(loop):
    """``transport, protocol = await connect(path)``, closed at the end."""
    transports = []

    async def connect(path=None, factory=Recorder, **options):
        transport, protocol = await loop.create_unix_connection(factory, path, **options)
        transports.append(transport)
        return transport, protocol

    yield connect
    if loop.is_closed():
        return
    for transport in transports:
        if not transport.is_closing():
            transport.abort()
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
