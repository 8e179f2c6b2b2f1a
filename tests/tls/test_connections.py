"""TLS connections from the handshake to the end, on the native path and on asyncio's.

The stream below is found by private attributes.
"""

import asyncio
import contextlib
import gc
import socket
import ssl
import struct
import sys
import weakref
from unittest import mock

import pytest

from tests.support.streams import MIB, Echo, Recorder, others_done, tcp_pair

from .support import write_until_paused


async def test_echo(loop, serve, dial, eventually):
    address, _ = await serve()
    transport, protocol = await dial(address)
    for number in range(100):
        transport.write(b"%d," % number)
    expected = b"".join(b"%d," % number for number in range(100))
    await eventually(lambda: protocol.data == expected)


async def test_extra_info(loop, serve, dial, client_context):
    address, _ = await serve()
    transport, _ = await dial(address)
    assert transport.get_extra_info("peername") == address
    assert transport.get_extra_info("sslcontext") is client_context
    assert transport.get_extra_info("cipher")
    assert transport.get_extra_info("ssl_object").version().startswith("TLS")
    assert ("DNS", "localhost") in transport.get_extra_info("peercert")["subjectAltName"]
    assert transport.get_extra_info("socket").fileno() >= 0


async def test_connection_made_comes_after_the_handshake(loop, serve, dial, eventually):
    seen = []

    class Asking(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(transport.get_extra_info("cipher"))

    address, _ = await serve(Asking)
    await dial(address, Asking)
    await eventually(lambda: len(seen) == 2)
    assert all(seen)


async def test_large_transfer(loop, serve, dial, eventually):
    address, _ = await serve()
    transport, protocol = await dial(address)
    data = bytes(range(256)) * (8 * MIB // 256)
    transport.write(data)
    await eventually(lambda: len(protocol.data) >= len(data))
    assert protocol.data == data


async def test_flow_control(loop, serve, dial, eventually):
    address, protocols = await serve(Recorder)
    transport, protocol = await dial(address)
    await eventually(lambda: protocols and protocols[0].transport)
    written = await write_until_paused(transport, protocols[0].transport)
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert protocol.names[-1] == "pause_writing"
    protocols[0].transport.resume_reading()
    await eventually(lambda: protocol.names[-1] == "resume_writing")
    await eventually(lambda: len(protocols[0].data) == written)


async def test_closing_flushes_and_ends_cleanly(loop, serve, dial, eventually):
    address, protocols = await serve(Recorder)
    transport, protocol = await dial(address)
    transport.write(b"x" * 1_000_000)
    transport.close()
    await eventually(lambda: protocol.lost and protocols[0].lost)
    assert protocol.lost_exception is None
    assert protocols[0].lost_exception is None
    assert len(protocols[0].data) == 1_000_000
    assert protocols[0].names.count("eof_received") == 1


async def test_server_closes(loop, serve, dial, eventually):
    class Closing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.write(b"bye")
            self.transport.close()

    address, _ = await serve(Closing)
    transport, protocol = await dial(address)
    transport.write(b"hello")
    await eventually(lambda: protocol.lost)
    assert protocol.data == b"bye"
    assert protocol.lost_exception is None


async def test_abort(loop, serve, dial, eventually):
    address, protocols = await serve(Recorder)
    transport, protocol = await dial(address)
    await eventually(lambda: protocols and protocols[0].transport)
    transport.abort()
    await eventually(lambda: protocol.lost and protocols[0].lost)
    assert protocol.lost_exception is None


async def test_untrusted_certificate(loop, serve, quiet, distrusting_context):
    address, protocols = await serve()
    with pytest.raises(ssl.SSLCertVerificationError):
        await loop.create_connection(
            Recorder, *address, ssl=distrusting_context, server_hostname="localhost"
        )


async def test_wrong_host_name(loop, serve, quiet, client_context):
    address, _ = await serve()
    with pytest.raises(ssl.SSLCertVerificationError, match="ostname mismatch"):
        await loop.create_connection(
            Recorder, *address, ssl=client_context, server_hostname="example.org"
        )


async def test_server_goes_on_after_a_failed_handshake(
    loop, serve, dial, quiet, eventually, distrusting_context
):
    address, _ = await serve()
    for _ in range(3):
        with pytest.raises(ssl.SSLError):
            await loop.create_connection(
                Recorder, *address, ssl=distrusting_context, server_hostname="localhost"
            )
    with socket.create_connection(address) as garbage:
        garbage.send(b"this is not TLS\r\n\r\n")
    transport, protocol = await dial(address)
    transport.write(b"fine")
    await eventually(lambda: protocol.data == b"fine")


async def test_client_handshake_timeout(loop, client_context):
    """A server that accepts and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer than"):
            await loop.create_connection(
                Recorder,
                *mute.getsockname(),
                ssl=client_context,
                server_hostname="localhost",
                ssl_handshake_timeout=0.05,
            )


async def test_server_handshake_timeout(loop, serve, quiet, eventually):
    address, _ = await serve(ssl_handshake_timeout=0.05)
    with socket.create_connection(address) as mute:
        mute.setblocking(False)

        def ended():
            try:
                return mute.recv(100) == b""
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True

        await eventually(ended)


async def test_peer_vanishes_in_the_handshake(loop, client_context):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connecting = asyncio.create_task(
            loop.create_connection(
                Recorder,
                *listener.getsockname(),
                ssl=client_context,
                server_hostname="localhost",
            )
        )
        listener.setblocking(False)
        accepted, _ = await loop.sock_accept(listener)
        accepted.close()
        with pytest.raises((ConnectionResetError, ssl.SSLError)):
            await asyncio.wait_for(connecting, 60)


async def test_cancelling_the_handshake(loop, client_context):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        task = asyncio.create_task(
            loop.create_connection(
                Recorder, *mute.getsockname(), ssl=client_context, server_hostname="localhost"
            )
        )
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.001)


async def start_tls_on_both_ends(loop, client_context, server_context, client, server):
    """A plain connection first; then both upgrade. Gives the two new transports."""
    ours, theirs = tcp_pair()
    plain_client, _ = await loop.connect_accepted_socket(lambda: client, ours)
    plain_server, _ = await loop.connect_accepted_socket(lambda: server, theirs)
    plain_client.write(b"STARTTLS\n")
    while server.data != b"STARTTLS\n":
        await asyncio.sleep(0.001)
    server.data.clear()
    return await asyncio.gather(
        loop.start_tls(plain_client, client, client_context, server_hostname="localhost"),
        loop.start_tls(plain_server, server, server_context, server_side=True),
    )


async def test_start_tls(loop, client_context, server_context, eventually):
    client, server = Recorder(), Recorder()
    client_side, server_side = await start_tls_on_both_ends(
        loop, client_context, server_context, client, server
    )
    client_side.write(b"x" * 500_000)
    await eventually(lambda: len(server.data) == 500_000)
    server_side.write(b"secret answer")
    await eventually(lambda: client.data == b"secret answer")
    assert client_side.get_extra_info("cipher")
    assert client.names.count("connection_made") == 1
    client_side.close()
    await eventually(lambda: client.lost and server.lost)


async def test_start_tls_that_fails(loop, opened, distrusting_context, server_context, quiet):
    client, server = Recorder(), Recorder()
    ours, theirs = tcp_pair()
    plain_client, _ = await loop.connect_accepted_socket(lambda: client, ours)
    plain_server, _ = await loop.connect_accepted_socket(lambda: server, theirs)
    opened += [plain_client, plain_server]
    results = await asyncio.gather(
        loop.start_tls(plain_client, client, distrusting_context, server_hostname="localhost"),
        loop.start_tls(plain_server, server, server_context, server_side=True),
        return_exceptions=True,
    )
    assert isinstance(results[0], ssl.SSLCertVerificationError)
    if not isinstance(results[1], BaseException):
        results[1].abort()
    await asyncio.sleep(0.005)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio's own part leaves a cycle there")
@pytest.mark.improves_on_asyncio
async def test_start_tls_that_fails_leaves_no_cycle(
    loop, opened, distrusting_context, server_context, quiet, eventually
):
    ours, theirs = tcp_pair()
    server_side, server = await loop.connect_accepted_socket(Recorder, theirs)
    opened.append(server_side)

    async def fail():
        transport, protocol = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        with pytest.raises(ssl.SSLCertVerificationError):
            await loop.start_tls(
                transport, protocol, distrusting_context, server_hostname="localhost"
            )
        return weakref.ref(transport)

    upgrade = asyncio.ensure_future(
        loop.start_tls(server_side, server, server_context, server_side=True)
    )
    gc.collect()
    gc.disable()
    try:
        reference = await fail()
        await eventually(lambda: reference() is None)
    finally:
        gc.enable()
    for result in await asyncio.gather(upgrade, return_exceptions=True):
        if not isinstance(result, BaseException):
            result.abort()


async def test_start_tls_passes_on_what_it_does_not_know(loop, opened, client_context):
    ours, theirs = tcp_pair()
    with theirs:
        transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
        opened.append(transport)
        with pytest.raises(TypeError, match="of_a_later_python"):
            await loop.start_tls(transport, protocol, client_context, of_a_later_python=1)
        assert transport.is_reading()


async def test_write_of_the_stream_below_is_replaced(loop, serve, dial, eventually):
    address, _ = await serve()
    transport, protocol = await dial(address)
    below = transport._ssl_protocol._transport
    with mock.patch.object(below, "write", wraps=below.write) as write:
        transport.write(b"hello")
        await eventually(lambda: protocol.data == b"hello")
        (ciphertext,) = (call.args[0] for call in write.call_args_list)
        assert b"hello" not in bytes(ciphertext)
    with mock.patch.object(below, "write") as write:
        transport.write(b"not sent")
        assert write.called


async def test_any_object_in_the_slots_of_the_transport(loop, serve, dial, eventually):
    address, _ = await serve()
    transport, protocol = await dial(address)
    slots = [
        slot
        for cls in type(transport).__mro__
        for slot in vars(cls).values()
        if type(slot).__name__ == "member_descriptor"
    ]
    assert len(slots) >= 5
    for slot in slots:
        try:
            before = slot.__get__(transport)
        except AttributeError:
            continue
        slot.__set__(transport, object())
        # An object that is no protocol, a loop or a water mark has no such method.
        with contextlib.suppress(AttributeError):
            transport.write(b"hello")
        slot.__set__(transport, before)
    transport.write(b"the end")
    await eventually(lambda: protocol.data.endswith(b"the end"))


async def test_start_tls_times_out(loop, opened, client_context):
    ours, theirs = tcp_pair()
    with theirs:
        transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
        opened.append(transport)
        with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer"):
            await loop.start_tls(
                transport,
                protocol,
                client_context,
                server_hostname="localhost",
                ssl_handshake_timeout=0.05,
            )


async def test_start_tls_argument_errors(loop, opened, client_context):
    ours, theirs = tcp_pair()
    with theirs:
        transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
        opened.append(transport)
        with pytest.raises(TypeError, match="sslcontext is expected to be an instance of"):
            await loop.start_tls(transport, protocol, None)
        with pytest.raises(TypeError, match="is not supported by start_tls"):
            await loop.start_tls(object(), protocol, client_context)


async def test_streams(loop, server_context, client_context):
    async def shout(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(shout, "127.0.0.1", 0, ssl=server_context)
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
    )
    for number in range(50):
        writer.write(b"line %d\n" % number)
        assert await reader.readline() == b"LINE %d\n" % number
    writer.close()
    await writer.wait_closed()
    await others_done()
    server.close()
    await server.wait_closed()


async def test_stream_writer_start_tls(loop, server_context, client_context):
    async def serve(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"GO\n")
        await writer.drain()
        await writer.start_tls(server_context)
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"GO\n"
    await writer.start_tls(client_context, server_hostname="localhost")
    writer.write(b"secret\n")
    assert await reader.readline() == b"SECRET\n"
    assert writer.get_extra_info("cipher")
    writer.close()
    await writer.wait_closed()
    await others_done()
    server.close()
    await server.wait_closed()


async def test_many_connections(loop, serve, dial, eventually):
    address, _ = await serve()
    made = await asyncio.gather(*(dial(address) for _ in range(20)))
    for number, (transport, _) in enumerate(made):
        transport.write(b"%d" % number)
    await eventually(lambda: all(protocol.data for _, protocol in made))
    assert [int(protocol.data) for _, protocol in made] == list(range(20))


async def test_blocking_client_of_the_ssl_module(loop, serve, client_context):
    """Against OpenSSL on a plain blocking socket in another thread."""
    address, _ = await serve()

    def talk():
        with socket.create_connection(address) as raw:
            raw.settimeout(60)
            with client_context.wrap_socket(raw, server_hostname="localhost") as sock:
                sock.sendall(b"x" * 100_000)
                received = 0
                while received < 100_000:
                    received += len(sock.recv(65536))
                sock.unwrap()
                return received

    assert await asyncio.to_thread(talk) == 100_000


async def test_peer_resets(loop, serve, dial, eventually):
    address, protocols = await serve(Recorder)
    transport, protocol = await dial(address)
    await eventually(lambda: protocols and protocols[0].transport)
    sock = protocols[0].transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    protocols[0].transport.abort()
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, ConnectionResetError)


@pytest.mark.skipif(not ssl.HAS_TLSv1_2, reason="this OpenSSL has no TLS 1.2")
async def test_tls_1_2(loop, serve, dial, authority, eventually):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    address, _ = await serve()
    transport, protocol = await dial(address, ssl=context)
    assert transport.get_extra_info("ssl_object").version() == "TLSv1.2"
    transport.write(b"x" * 300_000)
    await eventually(lambda: len(protocol.data) == 300_000)


async def test_unix_sockets(loop, server_context, client_context, tmp_path, eventually):
    path = str(tmp_path / "socket")
    echo = Echo()
    server = await loop.create_unix_server(lambda: echo, path, ssl=server_context)
    transport, protocol = await loop.create_unix_connection(
        Recorder, path, ssl=client_context, server_hostname="localhost"
    )
    transport.write(b"over unix")
    await eventually(lambda: protocol.data == b"over unix")
    transport.close()
    await eventually(lambda: protocol.lost and echo.lost)
    server.close()
    await server.wait_closed()
