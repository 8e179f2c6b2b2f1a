"""A protocol's method that runs iterations of the loop before it returns."""

import socket
import struct

import pytest

from tests.conftest import LOOP_MODULE
from tests.support.streams import Recorder
from tests.support.waiting import iterate_until

pytestmark = pytest.mark.skipif(
    LOOP_MODULE == "asyncio", reason="an iteration of asyncio cannot run within another one"
)


class Again(Recorder):
    """Enters the loop again in its first `data_received()` or `eof_received()`."""

    def __init__(self, loop, where, within):
        super().__init__()
        self.loop, self.where, self.within = loop, where, within

    def data_received(self, data):
        super().data_received(data)
        self.enter("data_received")

    def eof_received(self):
        super().eof_received()
        self.enter("eof_received")
        return True

    def enter(self, where):
        if where == self.where and self.names.count(where) == 1:
            self.within(self)


async def test_data_of_an_event_within_data_received_is_read(loop, connect, eventually):
    """(T3.9)"""
    returned = []

    def within(protocol):
        protocol.transport.pause_reading()
        peer.send(b"b")
        # The event of this data comes while reading is paused, and is the only one.
        began = loop.time()
        iterate_until(loop, lambda: loop.time() > began + 0.02)
        returned.append(bytes(protocol.data))

    protocol = Again(loop, "data_received", within)
    transport, peer = await connect(protocol)
    peer.send(b"a")
    await eventually(lambda: returned)
    transport.resume_reading()
    await eventually(lambda: protocol.data == b"ab")


async def test_a_reset_within_eof_received_notifies_once(loop, connect, eventually):
    """(T3.13)"""
    returned = []

    def within(protocol):
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sock.close()
        began = loop.time()
        iterate_until(loop, lambda: loop.time() > began + 0.02)
        returned.append(protocol.names)

    protocol = Again(loop, "eof_received", within)
    transport, peer = await connect(protocol)
    peer.sock.shutdown(socket.SHUT_WR)
    await eventually(lambda: returned)
    assert not protocol.lost and not transport.is_closing()
    transport.abort()
    await eventually(lambda: protocol.lost)
    assert protocol.names.count("eof_received") == 1
    assert protocol.names.count("connection_lost") == 1
