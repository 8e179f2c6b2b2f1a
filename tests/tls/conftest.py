import asyncio
import ssl

import pytest
import trustme

from tests.conftest import LOOP_MODULE, turned_off
from tests.support.certificates import authority, client_context, server_context
from tests.support.fixtures import ends_clean, opened
from tests.support.streams import Echo, Recorder

__all__ = ["authority", "client_context", "ends_clean", "opened", "server_context"]

ON_ASYNCIO = LOOP_MODULE == "asyncio"
if ON_ASYNCIO:
    PATHS = ["asyncio"]
elif turned_off("ssl_object"):
    PATHS = ["fallback"]
else:
    PATHS = ["native", "fallback"]


@pytest.fixture(autouse=True, params=PATHS)
def path(request):
    """Every test runs natively, and as where Python's OpenSSL is out of reach."""
    if request.param != "fallback":
        yield request.param
        return
    from hybridloop.loop import tls

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tls.TlsProtocol, "_is_available", staticmethod(lambda: False))
        yield request.param


@pytest.fixture
def make_server_context(authority):
    """A context of one's own, to be changed."""

    def make(*names):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*(names or ("localhost", "127.0.0.1"))).configure_cert(context)
        return context

    return make


@pytest.fixture
def make_client_context(authority):
    def make():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        return context

    return make


@pytest.fixture
def distrusting_context():
    """A client that knows another authority only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trustme.CA().configure_trust(context)
    return context


@pytest.fixture
def serve(loop, server_context):
    """``address, protocols = await serve(factory)`` with TLS."""
    servers, protocols = [], []

    async def serve(kind=Echo, **options):
        def factory():
            protocols.append(kind())
            return protocols[-1]

        server = await loop.create_server(
            factory, "127.0.0.1", 0, **{"ssl": server_context, **options}
        )
        servers.append(server)
        return server.sockets[0].getsockname(), protocols

    yield serve
    for server in servers:
        server.close()
    for protocol in protocols:
        if protocol.transport is not None and not protocol.lost:
            protocol.transport.abort()
    # The end of a handshake that has failed may be on its way.
    for _ in range(5):
        loop.run_until_complete(asyncio.sleep(0.001))


@pytest.fixture
def dial(loop, client_context):
    transports = []

    async def dial(address, factory=Recorder, **options):
        transport, protocol = await loop.create_connection(
            factory,
            *address,
            **{"ssl": client_context, "server_hostname": "localhost", **options},
        )
        transports.append((transport, protocol))
        return transport, protocol

    yield dial
    for transport, protocol in transports:
        if not protocol.lost:
            transport.abort()
    for _ in range(5):
        loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def quiet(loop, asyncio_log):
    """For tests where the other end fails its handshake: asyncio may log that."""
    loop.set_exception_handler(lambda loop, context: None)
