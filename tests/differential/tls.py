"""Scenarios over TLS. The peer is a TLS object in memory, so nothing happens by itself.

The state of the stream below is found by private attributes of asyncio's TLS transport.
"""

import contextlib
import functools
import re
import ssl

import trustme

from . import scenarios
from .streams import Player

# Limits count other bytes, see `TlsPlayer.called()`.
OURS = [
    operation for operation in scenarios.OURS if operation[0] not in ("limits", "writelines_mixed")
]
PEERS = [
    *(operation for operation in scenarios.PEERS if operation != ("peer_reset",)),
    ("peer_close_notify",),
    ("peer_garbage",),
    ("peer_truncated",),
    ("peer_many_records",),
]


@functools.cache
def contexts():
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


class TlsPlayer(Player):
    def __init__(self, loop, scenario, pair):
        super().__init__(loop, scenario, pair)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = contexts()[1].wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    async def connect(self):
        self.transport, _ = await self.loop.connect_accepted_socket(
            lambda: self.protocol(self.scenario.protocol), self.ours, ssl=contexts()[0]
        )

    def called(self, who, name, *details):
        # asyncio counts what is not encrypted yet, hybridloop what is not sent.
        if name not in ("pause_writing", "resume_writing"):
            super().called(who, name, *details)

    def begin(self):
        # That would be a handshake that fails, which is another story.
        with contextlib.suppress(KeyError, ValueError):
            self.reactions["connection_made"].remove(("raise",))
        connecting = self.loop.create_task(self.connect())
        self.is_open = False
        while not connecting.done():
            if not self.is_open:
                with contextlib.suppress(ssl.SSLWantReadError):
                    self.tls.do_handshake()
                    self.is_open = True
                self.flush()
            self.iterate()
            with contextlib.suppress(BlockingIOError):
                self.incoming.write(self.theirs.recv(1 << 20))
        connecting.result()

    def flush(self):
        if (data := self.outgoing.read()) and self.theirs.fileno() != -1:
            with contextlib.suppress(OSError):
                self.theirs.send(data)

    def write(self, data):
        # What is written after `close()` is dropped by both, sooner or later.
        if not self.transport.is_closing():
            super().write(data)

    def peer_write(self, data):
        with contextlib.suppress(ssl.SSLError, ValueError):
            self.tls.write(data)
        self.flush()

    def do_peer_send(self, number):
        self.peer_write(scenarios.TINY[number])

    def do_peer_send_much(self):
        self.peer_write(b"m" * 12_000)

    def do_peer_many_records(self):
        with contextlib.suppress(ssl.SSLError):
            for number in range(20):
                self.tls.write(b"%d" % number)
        self.flush()

    def do_peer_close_notify(self):
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.flush()

    def do_peer_garbage(self):
        if self.theirs.fileno() != -1:
            with contextlib.suppress(OSError):
                self.theirs.send(b"\x17\x03\x03\x00\x20" + b"garbage." * 4)

    def do_peer_truncated(self):
        with contextlib.suppress(ssl.SSLError):
            self.tls.write(b"never whole")
        if (data := self.outgoing.read()) and self.theirs.fileno() != -1:
            with contextlib.suppress(OSError):
                self.theirs.send(data[:-5])
            self.theirs.close()

    def receive(self):
        if self.ended is not None:
            return False
        try:
            data = self.theirs.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError:
            self.ended = "broken"
            return False
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()
        try:
            while plain := self.tls.read(1 << 20):
                self.arrived += plain
            self.ended = "closed"
        except ssl.SSLWantReadError:
            self.flush()
        except ssl.SSLError:
            self.ended = "broken"
        if not data and self.ended is None:
            self.ended = "broken"
        return bool(data)

    def is_sending(self):
        if self.lost:
            return True
        protocol = self.transport._ssl_protocol
        below = protocol and protocol._transport
        return bool(below and below.get_write_buffer_size())

    def state(self):
        self.trace.add("state", self.transport.is_closing())

    def exception(self, error):
        # The line of `_ssl.c` is CPython's.
        return re.sub(r" \(_ssl\.c:\d+\)", "", super().exception(error) or "") or None
