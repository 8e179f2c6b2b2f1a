"""The native path is used where it is possible. Private functions are replaced."""

import asyncio
import ssl

import pytest

from tests.support.streams import Echo, Recorder, tcp_pair, unix_pair

from .conftest import ON_ASYNCIO
from .support import path_of

pytestmark = pytest.mark.improves_on_asyncio


async def upgraded(loop, opened, pair, client_context, server_context):
    protocols = Recorder(), Echo()
    plain = []
    for sock, protocol in zip(pair, protocols, strict=True):
        transport, _ = await loop.connect_accepted_socket(lambda made=protocol: made, sock)
        plain.append(transport)
    opened += plain
    upgraded = await asyncio.gather(
        loop.start_tls(plain[0], protocols[0], client_context, server_hostname="localhost"),
        loop.start_tls(plain[1], protocols[1], server_context, server_side=True),
    )
    # start_tls() does not give the protocol its new transport.
    protocols[1].transport = upgraded[1]
    return protocols, upgraded


async def test_client_and_server(loop, serve, dial, path, eventually):
    address, protocols = await serve()
    transport, protocol = await dial(address)
    await eventually(lambda: protocols and protocols[0].transport)
    assert path_of(transport) == path_of(protocols[0].transport) == path
    for end in transport, protocols[0].transport:
        assert isinstance(end, asyncio.Transport)
        assert isinstance(end.get_extra_info("ssl_object"), ssl.SSLObject)
    transport.write(b"hello")
    await eventually(lambda: protocol.data == b"hello")


async def test_unix(loop, server_context, client_context, tmp_path, path, eventually):
    echo = Echo()
    server = await loop.create_unix_server(
        lambda: echo, str(tmp_path / "socket"), ssl=server_context
    )
    transport, protocol = await loop.create_unix_connection(
        Recorder, str(tmp_path / "socket"), ssl=client_context, server_hostname="localhost"
    )
    await eventually(lambda: echo.transport)
    assert path_of(transport) == path_of(echo.transport) == path
    transport.write(b"hello")
    await eventually(lambda: protocol.data == b"hello")
    transport.close()
    await eventually(lambda: protocol.lost and echo.lost)
    server.close()


async def test_connect_accepted_socket(loop, server_context, client_context, path, eventually):
    ours, theirs = unix_pair()
    (client_side, client), (server_side, server) = await asyncio.gather(
        loop.create_connection(
            Recorder, sock=ours, ssl=client_context, server_hostname="localhost"
        ),
        loop.connect_accepted_socket(Echo, theirs, ssl=server_context),
    )
    assert path_of(client_side) == path_of(server_side) == path
    client_side.write(b"hello")
    await eventually(lambda: client.data == b"hello")
    client_side.close()
    await eventually(lambda: client.lost and server.lost)


@pytest.mark.parametrize("make_pair", [tcp_pair, unix_pair])
async def test_start_tls(loop, opened, make_pair, client_context, server_context, path, eventually):
    (client, server), (ours, theirs) = await upgraded(
        loop, opened, make_pair(), client_context, server_context
    )
    assert path_of(ours) == path_of(theirs) == path
    ours.write(b"hello")
    await eventually(lambda: client.data == b"hello")
    ours.close()
    await eventually(lambda: client.lost and server.lost)


async def test_tls_within_tls(loop, opened, client_context, server_context, path, eventually):
    (client, server), (ours, theirs) = await upgraded(
        loop, opened, tcp_pair(), client_context, server_context
    )
    inner, inner_server = await asyncio.gather(
        loop.start_tls(ours, client, client_context, server_hostname="localhost"),
        loop.start_tls(theirs, server, server_context, server_side=True),
    )
    assert path_of(ours) == path
    assert path_of(inner) == "fallback"
    server.transport = inner_server
    inner.write(b"hello" * 20_000)
    await eventually(lambda: client.data == b"hello" * 20_000)
    inner.close()
    await eventually(lambda: client.lost and server.lost)


async def test_objects_of_its_own_kind(loop, serve, dial, authority, path, eventually):
    """A context whose objects have another read() keeps its say."""
    reads = []

    class Object(ssl.SSLObject):
        def read(self, *args):
            reads.append(args)
            return super().read(*args)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    context.sslobject_class = Object
    address, _ = await serve()
    transport, protocol = await dial(address, ssl=context)
    assert path_of(transport) == "fallback"
    transport.write(b"hello")
    await eventually(lambda: protocol.data == b"hello")
    assert reads


async def test_message_callback(loop, serve, dial, make_client_context, path, eventually):
    """Its exceptions are kept where only Python's own module looks for them."""
    messages = []
    context = make_client_context()
    context._msg_callback = lambda *args: messages.append(args)
    address, _ = await serve()
    transport, protocol = await dial(address, ssl=context)
    assert path_of(transport) == "fallback"
    transport.write(b"hello")
    await eventually(lambda: protocol.data == b"hello")
    assert messages


@pytest.mark.skipif(ON_ASYNCIO, reason="asks the native core")
def test_this_python_can_be_native(path):
    """The interpreters of the test environment link OpenSSL dynamically."""
    import _ssl

    from hybridloop.loop import tls

    if path == "native":
        assert tls.TlsProtocol._is_available() == hasattr(_ssl, "__file__")
