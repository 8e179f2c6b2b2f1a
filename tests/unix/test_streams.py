"""Data over Unix sockets: much of it, half-closed, with TLS, and when somebody vanishes."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys

import trustme

from tests.support.streams import Echo, Recorder, socket_of

from .support import HalfOpen

MIB = 1024 * 1024


async def test_much_data_both_ways(serve, connect, folder, eventually):
    await serve(f"{folder}/socket")
    transport, protocol = await connect(f"{folder}/socket")
    data = os.urandom(MIB) * 8
    transport.write(data)
    await eventually(lambda: len(protocol.data) == len(data))
    assert protocol.data == data


async def test_half_close(serve, connect, folder, eventually):
    _, accepted = await serve(f"{folder}/socket", HalfOpen)
    transport, protocol = await connect(f"{folder}/socket")
    assert transport.can_write_eof()
    transport.write(b"hello")
    transport.write_eof()
    await eventually(lambda: protocol.lost)
    assert protocol.data == b"olleh"
    assert protocol.ended
    accepted[0].transport.close()


async def test_streams(loop, folder):
    async def answer(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, f"{folder}/socket")
    reader, writer = await asyncio.open_unix_connection(f"{folder}/socket")
    for word in (b"one\n", b"two\n"):
        writer.write(word)
        assert await reader.readline() == word.upper()
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    server.close()


async def test_tls(serve, connect, folder, eventually):
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("unix.example").configure_cert(server_context)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client_context)
    _, accepted = await serve(f"{folder}/socket", ssl=server_context, ssl_handshake_timeout=60)
    transport, protocol = await connect(
        f"{folder}/socket", ssl=client_context, server_hostname="unix.example"
    )
    data = os.urandom(300_000)
    transport.write(data)
    await eventually(lambda: len(protocol.data) == len(data))
    assert protocol.data == data
    assert transport.get_extra_info("peername") == f"{folder}/socket"
    assert transport.get_extra_info("cipher")
    assert accepted[0].transport.get_extra_info("sockname") == f"{folder}/socket"
    transport.close()
    await eventually(lambda: protocol.lost and accepted[0].lost)


async def test_start_tls(loop, folder, eventually):
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("unix.example").configure_cert(server_context)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client_context)
    left, right = socket.socketpair(socket.AF_UNIX)
    plain, protocol = await loop.create_unix_connection(Recorder, sock=left)
    other, echo = await loop.connect_accepted_socket(Echo, right)
    secured, upgraded = await asyncio.gather(
        loop.start_tls(plain, protocol, client_context, server_hostname="unix.example"),
        loop.start_tls(other, echo, server_context, server_side=True),
    )
    echo.transport = upgraded
    secured.write(b"hello")
    await eventually(lambda: protocol.data == b"hello")
    secured.close()
    await eventually(lambda: protocol.lost and echo.lost)


async def test_descriptors_can_be_passed_beside(loop, folder, connect, eventually):
    """While reading is paused, the socket can be used for what transports do not do."""
    left, right = socket.socketpair(socket.AF_UNIX)
    with right:
        transport, protocol = await connect(None, sock=left)
        transport.pause_reading()
        read, write = os.pipe()
        try:
            socket.send_fds(right, [b"x"], [write])
            raw = socket_of(transport)
            data, fds, _, _ = socket.recv_fds(raw, 10, 4)
            assert data == b"x"
            os.write(fds[0], b"through the pipe")
            os.close(fds[0])
            assert os.read(read, 100) == b"through the pipe"
        finally:
            os.close(read)
            os.close(write)
        transport.resume_reading()
        right.send(b"and data again")
        await eventually(lambda: protocol.data == b"and data again")


async def test_a_peer_that_is_killed(serve, folder, eventually):
    _, accepted = await serve(f"{folder}/socket")
    script = (
        "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "s.sendall(b'x'); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, f"{folder}/socket"]) as process:
        try:
            await eventually(lambda: accepted and accepted[0].data == b"x")
        finally:
            process.send_signal(signal.SIGKILL)
    await eventually(lambda: accepted[0].lost)
    assert isinstance(accepted[0].lost_exception, (ConnectionError, type(None)))


async def test_writing_to_a_peer_that_is_gone(connect, eventually):
    left, right = socket.socketpair(socket.AF_UNIX)
    transport, protocol = await connect(None, sock=left)
    right.close()
    transport.write(b"too late")
    await eventually(lambda: protocol.lost)
    assert protocol.lost_exception is None or isinstance(protocol.lost_exception, BrokenPipeError)


async def test_pausing(serve, connect, folder, eventually):
    """A reader that stops makes the writer stop."""
    _, accepted = await serve(f"{folder}/socket", Recorder)
    transport, _ = await connect(f"{folder}/socket")
    await eventually(lambda: accepted)
    accepted[0].transport.pause_reading()
    transport.write(b"x" * (4 * MIB))
    for _ in range(20):
        await asyncio.sleep(0)
    assert transport.get_write_buffer_size() > 0
    accepted[0].transport.resume_reading()
    await eventually(lambda: len(accepted[0].data) == 4 * MIB)
    assert transport.get_write_buffer_size() == 0


async def test_sendfile(loop, serve, connect, folder, eventually):
    _, accepted = await serve(f"{folder}/socket", Recorder)
    transport, _ = await connect(f"{folder}/socket")
    data = os.urandom(600_000)
    with open(f"{folder}/file", "wb+") as file:
        file.write(data)
        file.flush()
        assert await loop.sendfile(transport, file, 1000) == len(data) - 1000
    await eventually(lambda: len(accepted[0].data) == len(data) - 1000)
    assert accepted[0].data == data[1000:]
