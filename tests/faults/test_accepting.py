"""Errors while connections are accepted do not affect other connections.

A private method of asyncio's server is replaced.
"""

import asyncio
import os
import socket

import pytest

from tests.support.streams import Peer, Recorder


def dial(server):
    sock = socket.create_connection(server.sockets[0].getsockname())
    return Peer(sock)


@pytest.mark.improves_on_asyncio
async def test_server_closed_by_the_protocol_factory(loop, unhandled):
    """The connection that was being accepted is closed once: its number may be in use again."""
    taken = []

    def factory():
        server.close()
        return asyncio.Protocol()

    server = await loop.create_server(factory, "127.0.0.1", 0)
    detach = server._detach

    def take_a_number(*args):
        taken.append(os.dup(0))
        detach(*args)

    server._detach = take_a_number
    peer = dial(server)
    assert await peer.read(1) == b""
    for fd in taken:
        os.fstat(fd)
        os.close(fd)
    peer.close()
    await asyncio.sleep(0)


@pytest.mark.improves_on_asyncio
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("stage", ["factory", "connection_made"])
def test_exception_that_ends_the_loop_loses_no_connection(loop, eventually, error, stage):
    """Others wait in the same queue; each is served when the loop goes on."""
    made = []

    class Failing(Recorder):
        def __init__(self):
            super().__init__()
            if stage == "factory" and not made:
                made.append(None)
                raise error

        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(self)
            if stage == "connection_made" and len(made) == 1:
                raise error

        def data_received(self, data):
            self.transport.write(data)

    server = loop.run_until_complete(loop.create_server(Failing, "127.0.0.1", 0))
    peers = [dial(server) for _ in range(5)]
    served = peers[1:] if stage == "factory" else peers
    for peer in served:
        peer.send(b"ping")
    guard = loop.call_later(60, loop.stop)
    with pytest.raises(error):
        loop.run_forever()
    guard.cancel()

    async def rest():
        for peer in served:
            assert await peer.read(4) == b"ping"
        if stage == "factory":
            assert await peers[0].read(1) == b""
        for peer in peers:
            peer.close()
        await eventually(lambda: all(p.lost for p in made if p is not None))
        server.close()
        await server.wait_closed()

    loop.run_until_complete(rest())


@pytest.mark.improves_on_asyncio
async def test_factory_that_raises(loop, unhandled, eventually):
    protocols = []

    def factory():
        protocols.append(Recorder())
        if len(protocols) % 2:
            raise ValueError("no protocol today")
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    peers = [dial(server) for _ in range(6)]
    await eventually(lambda: len(protocols) == 6)
    for number, peer in enumerate(peers):
        if number % 2 == 0:
            assert await peer.read(1) == b""
        else:
            peer.send(b"x")
            await eventually(lambda number=number: protocols[number].data == b"x")
        peer.close()
    await eventually(lambda: all(p.lost for p in protocols[1::2]))
    server.close()
    await server.wait_closed()


async def test_abort_in_connection_made(loop, eventually):
    class Aborting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"never")
            transport.abort()

    protocols = []

    def factory():
        protocols.append(Aborting())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    peers = [dial(server) for _ in range(20)]
    await eventually(lambda: len(protocols) == 20 and all(p.lost for p in protocols))
    assert all(p.names == ["connection_made", "connection_lost"] for p in protocols)
    for peer in peers:
        peer.close()
    server.close()
    await server.wait_closed()


async def test_resets_before_accept(loop, eventually):
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    # None of these is accepted before it is reset, because the loop does not run meanwhile.
    for _ in range(50):
        dial(server).reset()
    last = dial(server)
    last.send(b"here")
    await eventually(lambda: any(p.data == b"here" for p in protocols))
    last.close()
    await eventually(lambda: all(p.lost for p in protocols))
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_peer_that_leaves_right_after_accept(loop, eventually, how):
    """Before, in and after `connection_made()`."""

    class Leaving(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            getattr(peers.pop(), how)()
            transport.write(b"too late")

    protocols, peers = [], []

    def factory():
        protocols.append(Leaving())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    for _ in range(20):
        peers.append(dial(server))
        await eventually(lambda: not peers and protocols[-1].lost)
    assert all(p.names.count("connection_lost") == 1 for p in protocols)
    server.close()
    await server.wait_closed()


async def test_server_closed_between_two_connections_of_one_event(loop, eventually):
    """asyncio's `Server.close()` stops accepting at once; who was not accepted is reset."""
    protocols = []

    class Closing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            server.close()

    def factory():
        protocols.append(Closing())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    peers = [dial(server) for _ in range(3)]
    await eventually(lambda: protocols and protocols[0].transport)
    await asyncio.sleep(0)
    for peer in peers:
        peer.close()
    await eventually(lambda: all(p.lost for p in protocols))
