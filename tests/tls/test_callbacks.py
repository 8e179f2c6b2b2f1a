"""Everything that a context can be asked to do during the handshake and after it."""

import asyncio
import socket
import ssl

import pytest
import trustme

from tests.support.streams import Echo, Recorder

from .support import ManualPeer, path_of


async def test_server_name(loop, serve, dial, make_server_context, path, eventually):
    """The callback gives the connection another context."""
    asked = []
    front, back = make_server_context("front.example"), make_server_context("back.example")

    def choose(sslobj, name, context):
        asked.append((type(sslobj), name, context))
        if name == "back.example":
            sslobj.context = back

    front.sni_callback = choose
    address, protocols = await serve(ssl=front)
    for name in "front.example", "back.example":
        transport, protocol = await dial(address, server_hostname=name)
        assert path_of(transport) == path
        certificate = transport.get_extra_info("peercert")
        assert ("DNS", name) in certificate["subjectAltName"]
        transport.write(name.encode())
        await eventually(lambda p=protocol, n=name: p.data == n.encode())
    assert asked == [(ssl.SSLObject, name, front) for name in ("front.example", "back.example")]
    server_side = protocols[1].transport.get_extra_info("ssl_object")
    assert server_side.context is back


async def test_server_name_refused(loop, serve, client_context, make_server_context, quiet):
    context = make_server_context()
    context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    address, _ = await serve(ssl=context)
    # asyncio closes without sending the alert.
    with pytest.raises(ConnectionResetError):
        await loop.create_connection(
            Recorder, *address, ssl=client_context, server_hostname="localhost"
        )


async def test_alpn(loop, serve, dial, make_server_context, make_client_context, path):
    server, client = make_server_context(), make_client_context()
    server.set_alpn_protocols(["h2", "http/1.1"])
    client.set_alpn_protocols(["http/1.1", "h2"])
    address, _ = await serve(ssl=server)
    transport, _ = await dial(address, ssl=client)
    assert path_of(transport) == path
    assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"


async def test_key_log(loop, serve, dial, make_client_context, tmp_path, eventually, path):
    context = make_client_context()
    context.keylog_filename = str(tmp_path / "keys")
    address, _ = await serve()
    transport, protocol = await dial(address, ssl=context)
    assert path_of(transport) == path
    transport.write(b"hello")
    await eventually(lambda: protocol.data == b"hello")
    context.keylog_filename = None
    assert "TRAFFIC_SECRET" in (tmp_path / "keys").read_text()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_certificate(
    loop,
    serve,
    dial,
    authority,
    make_server_context,
    make_client_context,
    version,
    path,
    eventually,
):
    server, client = make_server_context(), make_client_context()
    authority.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    client.maximum_version = version
    authority.issue_cert("client@example.org").configure_cert(client)
    address, protocols = await serve(ssl=server)
    transport, protocol = await dial(address, ssl=client)
    transport.write(b"hello")
    await eventually(lambda: protocol.data == b"hello")
    theirs = protocols[0].transport
    assert path_of(theirs) == path
    assert ("email", "client@example.org") in theirs.get_extra_info("peercert")["subjectAltName"]


async def test_no_client_certificate(loop, dial, authority, make_server_context, path, eventually):
    """With TLS 1.3 the client notices it after its own handshake, while it reads."""
    server = make_server_context()
    authority.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED

    def refuse(listener):
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(60)
            with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
                server.wrap_socket(sock, server_side=True, do_handshake_on_connect=True)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = asyncio.ensure_future(asyncio.to_thread(refuse, listener))
        transport, protocol = await dial(listener.getsockname())
        await refusing
        await eventually(lambda: protocol.lost)
    assert path_of(transport) == path
    error = protocol.lost_exception
    assert type(error) is ssl.SSLError
    assert error.errno == ssl.SSL_ERROR_SSL
    assert (error.library, error.reason) == ("SSL", "TLSV13_ALERT_CERTIFICATE_REQUIRED")
    assert str(error).startswith("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert")


async def test_authentication_after_the_handshake(
    loop, serve, dial, authority, make_server_context, make_client_context, path, eventually
):
    server, client = make_server_context(), make_client_context()
    authority.configure_trust(server)
    authority.issue_cert("client@example.org").configure_cert(client)
    server.verify_mode = ssl.CERT_REQUIRED
    server.post_handshake_auth = client.post_handshake_auth = True

    class Asking(Recorder):
        def data_received(self, data):
            super().data_received(data)
            tls = self.transport.get_extra_info("ssl_object")
            if not tls.getpeercert():
                tls.verify_client_post_handshake()
                self.transport.write(b"who are you?")
            else:
                self.transport.write(b"welcome")

    server.verify_mode = ssl.CERT_OPTIONAL
    address, protocols = await serve(Asking, ssl=server)
    transport, protocol = await dial(address, ssl=client)
    transport.write(b"hello")
    await eventually(lambda: protocol.data == b"who are you?")
    transport.write(b"see my certificate")
    await eventually(lambda: protocol.data.endswith(b"welcome"))
    assert path_of(protocols[0].transport) == path


async def test_authentication_after_the_handshake_fails(
    loop, serve, dial, authority, make_server_context, make_client_context, eventually, quiet
):
    server, client = make_server_context(), make_client_context()
    authority.configure_trust(server)
    trustme.CA().issue_cert("stranger@example.org").configure_cert(client)
    server.verify_mode = ssl.CERT_OPTIONAL
    server.post_handshake_auth = client.post_handshake_auth = True

    class Asking(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.get_extra_info("ssl_object").verify_client_post_handshake()
            self.transport.write(b"who are you?")

    address, protocols = await serve(Asking, ssl=server)
    transport, _ = await dial(address, ssl=client)
    transport.write(b"hello")
    await eventually(lambda: protocols and protocols[0].lost)
    error = protocols[0].lost_exception
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert error.reason == "CERTIFICATE_VERIFY_FAILED"
    assert error.verify_code in (18, 19, 20, 21)
    assert error.verify_message in str(error)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_session_resumption(loop, serve, make_client_context, version):
    """Tickets of TLS 1.3 come as records between those of the application."""
    context = make_client_context()
    context.maximum_version = version
    address, _ = await serve()

    def talk():
        session = None
        reused = []
        for _ in range(3):
            with ManualPeer(address, context, session=session) as peer:
                peer.handshake()
                peer.sock.sendall(peer.encrypt(b"hello"))
                assert peer.read(5) == b"hello"
                session = peer.tls.session
                reused.append(peer.tls.session_reused)
                peer.sock.sendall(peer.close_notify())
                peer.drain()
        return reused

    assert await asyncio.to_thread(talk) == [False, True, True]


async def test_session_tickets_reach_a_client(loop, serve, dial, eventually):
    address, _ = await serve()
    transport, protocol = await dial(address)
    transport.write(b"hello")
    await eventually(lambda: protocol.data == b"hello")
    assert transport.get_extra_info("ssl_object").session.has_ticket


async def test_default_context(loop, serve, quiet):
    """`ssl=True` trusts the system's authorities, which do not know ours."""
    address, _ = await serve(Echo)
    with pytest.raises(ssl.SSLCertVerificationError):
        await loop.create_connection(Recorder, *address, ssl=True, server_hostname="localhost")


async def test_extra_info(loop, serve, dial, path, eventually):
    address, protocols = await serve()
    transport, _ = await dial(address)
    await eventually(lambda: protocols and protocols[0].transport)
    for end in transport, protocols[0].transport:
        assert end.get_extra_info("cipher") == end.get_extra_info("ssl_object").cipher()
        assert end.get_extra_info("compression") is None
        assert end.get_extra_info("sslcontext") is end.get_extra_info("ssl_object").context
        assert end.get_extra_info("nothing", "default") == "default"
    assert transport.get_extra_info("sockname") == protocols[0].transport.get_extra_info("peername")
