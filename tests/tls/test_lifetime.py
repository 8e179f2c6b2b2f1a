"""Connections end in time and leave nothing behind.

Protocols and streams below are found by private attributes.
"""

import asyncio
import fcntl
import gc
import shutil
import ssl
import subprocess
import sys
import termios
import weakref

import pytest

from tests.support.streams import Echo, Recorder, tcp_pair

from .support import ManualPeer, path_of


async def test_shutdown_timeout(loop, serve, client_context, eventually):
    """A peer that does not answer close_notify."""
    address, protocols = await serve(ssl_shutdown_timeout=0.05)

    def stay_silent():
        with ManualPeer(address, client_context) as peer:
            peer.handshake()
            peer.sock.sendall(peer.encrypt(b"hello"))
            assert peer.read(5) == b"hello"
            peer.drain()

    silent = asyncio.ensure_future(asyncio.to_thread(stay_silent))
    await eventually(lambda: protocols and protocols[0].data == b"hello")
    protocols[0].transport.close()
    await eventually(lambda: protocols[0].lost)
    # asyncio before 3.11.9 and 3.12.3 aborts without saying why.
    assert protocols[0].lost_exception is None or isinstance(
        protocols[0].lost_exception, TimeoutError
    )
    await silent


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
async def test_timeouts_are_positive(loop, server_context, name):
    ours, theirs = tcp_pair()
    with ours, theirs:
        with pytest.raises(ValueError, match=f"{name} should be a positive number"):
            await loop.connect_accepted_socket(Recorder, ours, ssl=server_context, **{name: 0})


async def test_abort_sends_what_was_written(loop, serve, dial, eventually):
    address, protocols = await serve(Recorder)
    transport, protocol = await dial(address)
    transport.write(b"last ")
    transport.write(b"words")
    transport.abort()
    await eventually(lambda: protocol.lost)
    await eventually(lambda: protocols and protocols[0].lost)
    assert protocols[0].data == b"last words"


@pytest.mark.parametrize("pieces", [[b"last words"], [b"last ", b"", b"words"]])
async def test_a_failing_eof_received_sends_what_was_written(
    loop, serve, client_context, eventually, pieces
):
    class Failing(Recorder):
        def eof_received(self):
            for piece in pieces:
                self.transport.write(piece)
            raise ValueError("from eof_received")

    reports = []
    loop.set_exception_handler(lambda _, report: reports.append(report))
    address, protocols = await serve(Failing)

    def end():
        with ManualPeer(address, client_context) as peer:
            peer.handshake()
            peer.sock.sendall(peer.close_notify())
            return peer.read(10)

    assert await asyncio.to_thread(end) == b"last words"
    await eventually(lambda: protocols[0].lost)
    assert isinstance(protocols[0].lost_exception, ValueError)
    assert [report["message"] for report in reports] == ["Error calling eof_received()"]


async def test_writing_to_the_closed(loop, serve, dial, eventually, asyncio_log):
    address, _ = await serve()
    transport, protocol = await dial(address)
    transport.close()
    assert transport.is_closing()
    for _ in range(7):
        transport.write(b"too late")
        transport.writelines([b"too ", b"late"])
    await eventually(lambda: protocol.lost)
    assert "SSL connection is closed" in asyncio_log.messages
    assert not protocol.data


async def test_closing_twice(loop, serve, dial, eventually):
    address, _ = await serve()
    transport, protocol = await dial(address)
    transport.close()
    transport.close()
    await eventually(lambda: protocol.lost)
    assert protocol.names.count("connection_lost") == 1
    with pytest.raises(AttributeError):
        transport.write(b"asyncio has let go of the protocol")


async def test_nothing_is_left(loop, serve, client_context, path, eventually):
    address, protocols = await serve()
    alive = []
    for _ in range(5):
        transport, protocol = await loop.create_connection(
            Recorder, *address, ssl=client_context, server_hostname="localhost"
        )
        assert path_of(transport) == path
        transport.write(b"hello")
        await eventually(lambda p=protocol: p.data == b"hello")
        alive += [weakref.ref(transport), weakref.ref(transport._ssl_protocol)]
        transport.close()
        await eventually(lambda p=protocol: p.lost)
        del transport, protocol
    await eventually(lambda: len(protocols) == 5 and all(p.lost for p in protocols))
    protocols.clear()
    gc.collect()
    assert [ref() for ref in alive] == [None] * 10


async def test_abandoned_connections(loop, serve, dial, path, eventually):
    """A cycle that nobody holds is found, with the SSL inside."""
    address, protocols = await serve()
    transport, protocol = await dial(address)
    transport.myself = transport
    await eventually(lambda: protocols and protocols[0].transport)
    ours = weakref.ref(transport._ssl_protocol)
    protocols[0].transport.abort()
    await eventually(lambda: protocol.lost)
    assert path_of(transport) == path
    protocol.calls.clear()
    protocol.transport = None
    del transport
    gc.collect()
    assert ours() is None or ours()._transport is None


async def test_many_at_once(loop, serve, dial, eventually):
    address, protocols = await serve()
    made = await asyncio.gather(*(dial(address) for _ in range(50)))
    for round_ in range(20):
        for number, (transport, _) in enumerate(made):
            transport.write(b"%d,%d;" % (round_, number))
        await asyncio.sleep(0)
    expected = [
        b"".join(b"%d,%d;" % (round_, number) for round_ in range(20)) for number in range(50)
    ]
    await eventually(lambda: [p.data for _, p in made] == expected)
    for transport, _ in made:
        transport.close()
    await eventually(lambda: all(p.lost for p in protocols))


def unread(pipe):
    """Bytes that the other end of a pipe has not read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@pytest.mark.parametrize(
    ("version", "command"), [("-tls1_3", b"K\n"), ("-tls1_3", b"k\n"), ("-tls1_2", b"R\n")]
)
async def test_key_update_and_renegotiation(
    loop, serve, eventually, version, command, server_context, path
):
    """New keys in the middle of a connection; with TLS 1.2 the server refuses."""
    address, protocols = await serve(Echo)
    unhandled = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    client = subprocess.Popen(
        ["openssl", "s_client", version, "-connect", f"127.0.0.1:{address[1]}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        client.stdin.write(b"before\n")
        client.stdin.flush()
        await eventually(lambda: protocols and protocols[0].data == b"before\n")
        assert path_of(protocols[0].transport) == path
        client.stdin.write(command)
        client.stdin.flush()
        if version == "-tls1_2":
            await eventually(lambda: protocols[0].lost)
            assert not unhandled
        else:
            # The client takes a line for a command only if it is all that it has read.
            await eventually(lambda: not unread(client.stdin))
            for number in range(3):
                client.stdin.write(b"after\n")
                client.stdin.flush()
                await eventually(lambda n=number: protocols[0].data.endswith(b"after\n" * (n + 1)))
            assert protocols[0].data == b"before\n" + b"after\n" * 3
    finally:
        client.kill()
        client.communicate()
    await eventually(lambda: protocols[0].lost)


async def test_stream_that_is_aborted_below(loop, serve, client_context, eventually, path):
    address, protocols = await serve()
    transport, protocol = await loop.create_connection(
        Recorder, *address, ssl=client_context, server_hostname="localhost"
    )
    stream = transport._ssl_protocol._transport
    loop.call_soon(stream.abort)
    await eventually(lambda: protocol.lost)
    # The stream has reported it, so there is no warning.
    assert transport.is_closing()
    await eventually(lambda: protocols and protocols[0].lost)
    assert isinstance(transport.get_extra_info("sslcontext"), ssl.SSLContext)
