"""Scenarios with datagrams, which have to arrive whole, once and in order."""

import asyncio
import contextlib
import socket

from . import streams

OURS = (
    [("send", size) for size in (0, 1, 5, 1000)] * 2
    + [("send_many",)] * 3
    + [
        ("send_text",),
        ("send_view",),
        ("send_too_large",),
        ("send_elsewhere",),
        ("close",),
        ("abort",),
        ("set_protocol", "plain"),
        ("get_protocol",),
        ("limits", 1_000_000),
        ("limits", None),
    ]
)
PEERS = (
    [("peer_send", size) for size in (0, 1, 5, 1000)] * 2
    + [("peer_drain",)] * 3
    + [("peer_send_many",), ("peer_close",)]
)
CALLBACKS = (
    "connection_made",
    "datagram_received",
    "error_received",
    "pause_writing",
    "resume_writing",
    "connection_lost",
)
# A Unix socket holds few datagrams, so this fills it.
MANY = 600


class DatagramPlayer(streams.Player):
    def __init__(self, loop, scenario, pair):
        super().__init__(loop, scenario, pair)
        self.peer_name = self.theirs.getsockname()

    async def connect(self):
        self.transport, _ = await self.loop.create_datagram_endpoint(
            lambda: self.protocol("plain"), sock=self.ours
        )

    def protocol(self, kind):
        self.protocols += 1
        return Protocol(self, f"p{self.protocols}")

    def send(self, data):
        if not self.transport.is_closing():
            self.transport.sendto(data)
            self.sent += b"<%d:%b>" % (len(data), data[:4])

    def do_send(self, size):
        self.send(b"%d" % (len(self.sent) % 10) * size)

    def do_send_many(self):
        for number in range(MANY):
            self.send(b"%d" % number)

    def do_send_text(self):
        if not self.transport.is_closing():
            self.transport.sendto("text")

    def do_send_view(self):
        if not self.transport.is_closing():
            self.transport.sendto(memoryview(b"viewed"))
            self.sent += b"<6:view>"

    def do_send_too_large(self):
        # If it had to wait, it would count as what waits, which asyncio counts in its own way.
        if not self.transport.is_closing() and len(self.sent) < MANY:
            self.transport.sendto(bytes(10_000_000))

    def do_send_elsewhere(self):
        if not self.transport.is_closing():
            self.transport.sendto(b"astray", "/nowhere/at/all")

    def do_limits(self, high):
        self.transport.set_write_buffer_limits(high)

    def do_peer_send(self, size):
        with contextlib.suppress(OSError):
            self.theirs.send(b"p" * size)

    def do_peer_send_many(self):
        for number in range(5):
            with contextlib.suppress(OSError):
                self.theirs.send(b"%d" % number)

    def do_peer_close(self):
        self.theirs.close()

    def receive(self):
        if self.theirs.fileno() == -1:
            return False
        try:
            data = self.theirs.recv(4096)
        except OSError:
            return False
        self.arrived += b"<%d:%b>" % (len(data), data[:4])
        return True

    def is_sending(self):
        return not self.lost and self.is_paused

    def arrive(self):
        """A Unix datagram is there when it is sent."""

    def report(self, loop, context):
        # hybridloop has no handle to show: it names the transport.
        for key in ("handle", "transport", "protocol"):
            context.pop(key, None)
        super().report(loop, context)

    def state(self):
        self.trace.add("state", self.transport.is_closing())


class Protocol(asyncio.DatagramProtocol):
    def __init__(self, player, name):
        self.player = player
        self.name = name

    def connection_made(self, transport):
        self.player.transport = transport
        self.player.called(self.name, "connection_made")

    def datagram_received(self, data, addr):
        # The name of the peer is another one in each run.
        known = addr == self.player.peer_name
        self.player.called(self.name, "datagram_received", data[:5], len(data), known)

    def error_received(self, exc):
        entry = (f"{self.name}:error_received", repr(exc))
        self.player.trace.events += 1
        # Every datagram that is queued fails when the peer is gone.
        if self.player.trace.entries[-1] != entry:
            self.player.called(self.name, "error_received", repr(exc))

    def pause_writing(self):
        self.player.is_paused = True
        self.player.called(self.name, "pause_writing")

    def resume_writing(self):
        self.player.called(self.name, "resume_writing")
        self.player.is_paused = False

    def connection_lost(self, exc):
        self.player.lost = True
        self.player.called(self.name, "connection_lost", self.player.exception(exc))


def pair():
    """Two sockets with names, connected to each other."""
    ours, theirs = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    for sock in (ours, theirs):
        sock.bind("")  # any abstract name
    ours.connect(theirs.getsockname())
    theirs.connect(ours.getsockname())
    ours.setblocking(False)
    return ours, theirs
