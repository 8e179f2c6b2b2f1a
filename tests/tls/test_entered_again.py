"""A protocol's method over TLS that runs iterations of the loop before it returns."""

import asyncio

import pytest

from tests import memory
from tests.conftest import LOOP_MODULE
from tests.support.streams import Recorder
from tests.support.waiting import iterate_until

from .support import ManualPeer

pytestmark = pytest.mark.skipif(
    LOOP_MODULE == "asyncio", reason="an iteration of asyncio cannot run within another one"
)


@pytest.mark.skipif(not memory.available, reason="glibc counts what is in use")
async def test_connections_whose_calls_have_not_returned_keep_no_buffers(
    loop, serve, client_context, eventually
):
    """(T3.12)"""
    count, used = 40, []

    class Nested(Recorder):
        def data_received(self, data):
            super().data_received(data)
            used.append(memory.in_use())
            if len(used) < count:
                peers[len(used)].sock.sendall(messages[len(used)])
                deeper = len(used) + 1
                iterate_until(loop, lambda: len(used) >= deeper)

    address, protocols = await serve(Nested)
    peers = [ManualPeer(address, client_context) for _ in range(count)]
    for peer in peers:
        await asyncio.to_thread(peer.handshake)
    messages = [peer.encrypt(b"x" * 1000) for peer in peers]
    peers[0].sock.sendall(messages[0])
    await eventually(lambda: len(used) == count)
    for peer in peers:
        peer.sock.close()
    # The first one makes what all share.
    assert (used[-1] - used[1]) / (count - 2) < 30_000
