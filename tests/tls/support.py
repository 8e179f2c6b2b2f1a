"""Protocols and peers for TLS tests."""

import asyncio
import contextlib
import select
import socket
import ssl
import struct

from tests.support.streams import MIB, limited


def path_of(transport):
    """Which code a TLS transport runs on."""
    return "native" if type(transport).__name__ == "SSLTransport" else "fallback"


async def write_until_paused(transport, reader):
    """Write until the protocol is paused for as long as the other end does not read.

    Gives back how much that was. While the system takes more, the protocol is paused and resumed.
    """
    limited(transport.get_extra_info("socket"), reader.get_extra_info("socket"))
    reader.pause_reading()
    protocol = transport.get_protocol()
    written = 0
    while written < 8 * MIB or protocol.names[-1] != "pause_writing":
        transport.write(b"x" * MIB)
        written += MIB
        assert written < 64 * MIB
        await asyncio.sleep(0)
    return written


class ManualPeer:
    """TLS in memory over a plain blocking socket, so that a test decides about every byte."""

    def __init__(self, address, context, **options):
        # An address, or a socket that is connected.
        sock = address if isinstance(address, socket.socket) else None
        self.sock = sock or socket.create_connection(address)
        self.sock.settimeout(60)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, **{"server_hostname": "localhost", **options}
        )

    def receive(self):
        data = self.sock.recv(65536)
        if not data:
            self.incoming.write_eof()
        self.incoming.write(data)
        return data

    def handshake(self):
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self.receive()
            else:
                self.flush()
                return self

    def flush(self):
        if data := self.outgoing.read():
            self.sock.sendall(data)

    def encrypt(self, data):
        self.tls.write(data)
        return self.outgoing.read()

    def read(self, count):
        """Exactly this many decrypted bytes."""
        data = b""
        while len(data) < count:
            try:
                data += self.tls.read(count - len(data))
            except ssl.SSLWantReadError:
                self.flush()
                assert self.receive(), "the connection ended"
        return data

    def send(self, data):
        """Send as much as the other side lets: it may have ended the connection meanwhile."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self.sock.sendall(data)

    def end(self):
        """Say that nothing more comes."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close_notify(self):
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()

    def drain(self):
        """Read until the other side ends or resets the connection."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while select.select([self.sock], [], [], 60)[0] and self.sock.recv(65536):
                pass

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()
