"""Hostile peers and untidy ends: the application sees what it sees on asyncio's own loop."""

import asyncio
import re
import socket
import ssl

import pytest

from tests.conftest import wait_for_condition
from tests.support.streams import BufferedRecorder, Echo, Recorder

from .support import ManualPeer

HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def before(data, *, end=False, reset=False):
    """A peer that sends this instead of a handshake."""

    def play(address, context):
        with socket.create_connection(address) as sock:
            sock.settimeout(60)
            peer = ManualPeer(sock, context)
            if callable(data):
                data(peer)
            else:
                peer.send(data)
            if end:
                peer.end()
            if reset:
                peer.reset()
            else:
                peer.drain()

    return play


def after(send, *, end=False, reset=False, pause=True):
    """A peer that sends ``hello``, gets it back, and then sends what ``send(peer)`` makes."""

    def play(address, context):
        with ManualPeer(address, context) as peer:
            peer.handshake()
            peer.sock.sendall(peer.encrypt(b"hello"))
            if pause:
                assert peer.read(5) == b"hello"
            data = send(peer)
            if data:
                peer.send(data)
            if end:
                peer.end()
            if reset:
                peer.reset()
            else:
                peer.drain()

    return play


def client_hello(peer):
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    return peer.outgoing.read()


def half_a_hello(peer):
    hello = client_hello(peer)
    peer.sock.sendall(hello[: len(hello) // 2])


def hello_in_pieces(peer):
    for byte in client_hello(peer)[:50]:
        peer.send(bytes([byte]))
    peer.send(b"\xff" * 400)


def hello_twice(peer):
    peer.sock.sendall(client_hello(peer) * 2)


def corrupt(peer):
    data = bytearray(peer.encrypt(b"not what it was"))
    data[-1] ^= 1
    return bytes(data)


PEERS = {
    "http": before(HTTP),
    "garbage": before(b"\x00\x01\x02" * 1000),
    "wrong version": before(b"\x16\x09\x09\x00\x05hello"),
    "oversized record": before(b"\x16\x03\x01\xff\xff" + b"x" * 70_000),
    "alert": before(b"\x15\x03\x01\x00\x02\x02\x28"),
    "empty": before(b"", end=True),
    "reset before": before(b"", reset=True),
    "half a hello": before(half_a_hello, end=True),
    "hello in pieces": before(hello_in_pieces, end=True),
    "hello twice": before(hello_twice),
    "corrupt record": after(corrupt),
    "http after": after(lambda peer: HTTP),
    "wrong version after": after(lambda peer: b"\x17\x09\x09\x00\x05hello"),
    "oversized after": after(lambda peer: b"\x17\x03\x03\xff\xff" + b"x" * 70_000),
    "good and corrupt": after(lambda peer: peer.encrypt(b"good") + corrupt(peer)),
    "unknown type": after(lambda peer: b"\x63" + peer.encrypt(b"data")[1:]),
    "replayed": after(lambda peer: peer.encrypt(b"data") * 2),
    "no close_notify": after(lambda peer: b"", end=True),
    "half a record": after(lambda peer: peer.encrypt(b"x" * 1000)[:500], end=True),
    "close_notify": after(ManualPeer.close_notify),
    "close_notify and end": after(ManualPeer.close_notify, end=True),
    "data and close_notify": after(
        lambda peer: peer.encrypt(b"last") + peer.close_notify(), end=True
    ),
    "data behind close_notify": after(lambda peer: peer.close_notify() + HTTP),
    "everything at once": after(
        lambda peer: peer.encrypt(b"one") + peer.encrypt(b"two") + peer.close_notify(),
        end=True,
        pause=False,
    ),
}


class Raising(Recorder):
    error: BaseException = ValueError("from data_received")

    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)
        raise self.error


class RaisingBuffered(BufferedRecorder):
    def get_buffer(self, sizehint):
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes):
        super().buffer_updated(nbytes)
        self.transport.write(self.buffer[:nbytes])
        raise ValueError("from buffer_updated")


class NoBuffer(BufferedRecorder):
    def get_buffer(self, sizehint):
        raise ValueError("from get_buffer")


class RaisingAtEnd(Echo):
    def eof_received(self):
        super().eof_received()
        raise ValueError("from eof_received")


class KeepingOpen(Echo):
    def eof_received(self):
        super().eof_received()
        return True


class Closing(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)
        self.transport.close()
        self.transport.write(b"too late")


class Aborting(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)
        self.transport.abort()
        self.transport.abort()


def drained(peer):
    peer.drain()
    return b""


EXCHANGES = {
    "raising": (Raising, after(drained)),
    "raising buffered": (RaisingBuffered, after(drained)),
    "no buffer": (NoBuffer, after(drained, pause=False)),
    "raising at the end": (RaisingAtEnd, after(ManualPeer.close_notify, end=True)),
    "keeping open": (KeepingOpen, after(ManualPeer.close_notify, end=True)),
    "closing": (Closing, after(ManualPeer.close_notify)),
    "aborting": (Aborting, after(drained)),
}


def describe(error):
    """What can be compared of an exception."""
    if error is None:
        return None
    text = re.sub(r" \(_ssl\.c:\d+\)", "", str(error))
    return type(error), text, getattr(error, "reason", None), getattr(error, "library", None)


async def seen(loop, kind, peer, server_context, client_context):
    """What the protocol and the exception handler of a server get to see."""
    protocols, unhandled = [], []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))

    def factory():
        protocols.append(kind())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_context)
    address = server.sockets[0].getsockname()
    await asyncio.to_thread(peer, address, client_context)
    # Without connection_made() there is no connection_lost() either.
    await wait_for_condition(
        lambda: protocols and (protocols[0].transport is None or protocols[0].lost)
    )
    server.close()
    await server.wait_closed()
    (protocol,) = protocols
    names = []
    for name in protocol.names:
        # How data is cut into pieces depends on when it comes.
        if not names or names[-1] != name:
            names.append(name)
    reports = [(report["message"], describe(report.get("exception"))) for report in unhandled]
    return names, bytes(protocol.data), describe(protocol.lost_exception), reports


def compare(loop, kind, peer, server_context, client_context):
    arguments = kind, peer, server_context, client_context
    ours = loop.run_until_complete(seen(loop, *arguments))
    reference = asyncio.SelectorEventLoop()
    try:
        theirs = reference.run_until_complete(seen(reference, *arguments))
        reference.run_until_complete(reference.shutdown_default_executor())
    finally:
        reference.close()
    assert ours == theirs
    return ours


@pytest.mark.parametrize("name", PEERS)
def test_peers(loop, asyncio_log, server_context, client_context, name):
    names, data, _, _ = compare(loop, Echo, PEERS[name], server_context, client_context)
    if "data" in name:
        assert data.startswith(b"hello")
    assert ("connection_made" in names) == ("connection_lost" in names)


@pytest.mark.parametrize("name", EXCHANGES)
def test_applications(loop, asyncio_log, server_context, client_context, name):
    kind, peer = EXCHANGES[name]
    names, _, _, _ = compare(loop, kind, peer, server_context, client_context)
    assert names[-1] == "connection_lost"


def test_reset(loop, asyncio_log, server_context, client_context):
    play = after(lambda peer: b"", reset=True)
    _, _, error, _ = compare(loop, Echo, play, server_context, client_context)
    assert error[0] is ConnectionResetError


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_ending_the_loop(loop, asyncio_log, serve, dial, kind):
    """What ends the loop does so from within TLS as well."""

    class Ending(Raising):
        error = kind()

    async def main():
        address, _ = await serve(Ending)
        transport, protocol = await dial(address)
        transport.write(b"stop")
        await wait_for_condition(lambda: protocol.lost)

    with pytest.raises(kind):
        loop.run_until_complete(main())
