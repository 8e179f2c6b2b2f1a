"""Servers: closing, waiting for their clients, `serve_forever()`."""

import asyncio
import socket
import sys

import pytest

from tests.support.descriptors import is_open
from tests.support.streams import Collecting

needs_close_clients = pytest.mark.skipif(
    sys.version_info < (3, 13), reason="close_clients and abort_clients are new in Python 3.13"
)
waits_for_clients = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="Python 3.11 does not wait for clients"
)


async def test_close_stops_listening(loop, serve):
    server, address, _ = await serve()
    fd = server.sockets[0].fileno()
    server.close()
    assert not is_open(fd)
    # Nobody else gets the port meanwhile, not even the socket that connects.
    with socket.socket() as holder:
        holder.bind(address)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
    server.close()


async def test_close_leaves_connections_alone(loop, serve, dial, eventually):
    server, address, factory = await serve()
    peer = dial(address)
    await eventually(lambda: factory.made)
    server.close()
    peer.send(b"still here")
    await eventually(lambda: factory.made[0].data == b"still here")
    factory.made[0].transport.write(b"me too")
    assert await peer.read(6) == b"me too"


async def test_close_in_the_turn_of_an_accept(loop, serve, dial):
    """The listening fd is readable, but the server closes first."""
    server, address, factory = await serve()
    dial(address)
    server.close()
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert factory.made == []


async def test_wait_closed_without_connections(loop, serve):
    server, _, _ = await serve()
    server.close()
    await asyncio.wait_for(server.wait_closed(), 60)
    assert server.sockets == ()


@waits_for_clients
async def test_wait_closed_waits_for_connections(loop, serve, dial, eventually):
    server, address, factory = await serve()
    peer = dial(address)
    await eventually(lambda: factory.made)
    server.close()
    waiter = asyncio.create_task(server.wait_closed())
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert not waiter.done()
    peer.close()
    await asyncio.wait_for(waiter, 60)
    assert factory.made[0].lost


@waits_for_clients
async def test_wait_closed_before_close(loop, serve):
    server, _, _ = await serve()
    waiter = asyncio.create_task(server.wait_closed())
    await asyncio.sleep(0.002)
    assert not waiter.done()
    server.close()
    await asyncio.wait_for(waiter, 60)


@needs_close_clients
async def test_close_clients(loop, serve, dial, eventually):
    server, address, factory = await serve()
    peers = [dial(address) for _ in range(5)]
    await eventually(lambda: len(factory.made) == 5)
    factory.made[0].transport.write(b"x" * 4_000_000)
    server.close()
    server.close_clients()
    assert await peers[0].read_to_end() == b"x" * 4_000_000
    for peer in peers[1:]:
        assert await peer.read_to_end() == b""
    await asyncio.wait_for(server.wait_closed(), 60)
    assert [protocol.lost_exception for protocol in factory.made] == [None] * 5


@needs_close_clients
async def test_abort_clients(loop, serve, dial, eventually):
    server, address, factory = await serve()
    peers = [dial(address) for _ in range(5)]
    await eventually(lambda: len(factory.made) == 5)
    factory.made[0].transport.write(b"x" * 20_000_000)
    server.close()
    server.abort_clients()
    await asyncio.wait_for(server.wait_closed(), 60)
    assert all(protocol.lost for protocol in factory.made)
    assert len(await peers[0].read_to_end()) < 20_000_000


@needs_close_clients
async def test_close_clients_with_gone_connections(loop, serve, dial, eventually):
    server, address, factory = await serve()
    dial(address).close()
    await eventually(lambda: factory.made and factory.made[0].lost)
    server.close_clients()
    server.abort_clients()


@waits_for_clients
async def test_abandoned_connection_counts_as_gone(loop, serve, dial, eventually):
    """wait_closed does not wait for a connection whose protocol was collected or reset."""
    server, address, factory = await serve()
    peer = dial(address)
    await eventually(lambda: factory.made)
    peer.reset()
    await eventually(lambda: factory.made[0].lost)
    server.close()
    await asyncio.wait_for(server.wait_closed(), 60)


async def test_serve_forever_until_cancelled(loop, serve, dial, eventually):
    server, address, factory = await serve(start_serving=False)
    task = asyncio.create_task(server.serve_forever())
    await eventually(server.is_serving)
    peer = dial(address)
    await eventually(lambda: factory.made)
    peer.close()
    await eventually(lambda: factory.made[0].lost)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_serving()
    assert server.sockets == ()


async def test_serve_forever_twice(loop, serve, eventually):
    server, _, _ = await serve()
    task = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="is already being awaited on serve_forever"):
        await server.serve_forever()
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_serve_forever_after_close(loop, serve):
    server, _, _ = await serve()
    server.close()
    with pytest.raises(RuntimeError, match="is closed$"):
        await server.serve_forever()


async def test_context_manager(loop, dial, eventually):
    factory = Collecting()
    async with await loop.create_server(factory, "127.0.0.1", 0) as server:
        peer = dial(server.sockets[0].getsockname())
        await eventually(lambda: factory.made)
        peer.close()
    assert server.sockets == ()


async def test_server_after_server_on_one_port(loop, dial, eventually):
    port = 0
    for _ in range(5):
        factory = Collecting()
        server = await loop.create_server(factory, "127.0.0.1", port)
        address = server.sockets[0].getsockname()
        port = address[1]
        peer = dial(address)
        await eventually(lambda factory=factory: factory.made)
        peer.reset()
        await eventually(lambda factory=factory: factory.made[0].lost)
        server.close()
        await server.wait_closed()
