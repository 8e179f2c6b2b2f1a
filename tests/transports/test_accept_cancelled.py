"""Cancelling all tasks while connections are being accepted: asyncio closes them."""

import asyncio
import socket

import pytest

from tests.support.streams import Recorder


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


class Handling(asyncio.Protocol):
    """Leaves the connection to a task."""

    def __init__(self, loop):
        self.loop = loop

    def connection_made(self, transport):
        self.task = self.loop.create_task(self.handle(transport))

    async def handle(self, transport):
        try:
            await asyncio.sleep(60)
        finally:
            transport.close()


def cancel_all(loop):
    for task in asyncio.all_tasks(loop):
        task.cancel()


def connected(listener, count=1):
    peers = [socket.create_connection(listener.getsockname()) for _ in range(count)]
    for peer in peers:
        peer.settimeout(60)
    return peers


def end(loop, server):
    """Fails if a connection is left that nobody closes."""
    server.close()
    loop.run_until_complete(asyncio.wait_for(server.wait_closed(), 60))


@pytest.mark.parametrize("when", ["factory", "connection_made", "other thread"])
@pytest.mark.parametrize(
    "count",
    [1, pytest.param(3, marks=pytest.mark.improves_on_asyncio)],  # it leaves them to the collector
)
def test_protocol(loop, listener, iterate, when, count):
    """Whenever that comes, from the accept to the end of what connection_made() has scheduled."""

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            if when == "connection_made":
                cancel_all(loop)

    made = []

    def factory():
        made.append(Protocol())
        if when == "factory":
            cancel_all(loop)
        elif when == "other thread":
            loop.call_soon_threadsafe(cancel_all, loop)
        return made[-1]

    server = loop.run_until_complete(loop.create_server(factory, sock=listener))
    peers = connected(listener, count)
    while len(made) < count:
        iterate()
    iterate(10)
    for peer in peers:
        assert peer.recv(1) == b""
        peer.close()
    end(loop, server)
    assert [protocol.names for protocol in made] == [["connection_made", "connection_lost"]] * count


def test_task_of_the_protocol(loop, listener):
    """Its task is cancelled before it has run, so nobody but the accepting one can close."""

    def factory():
        loop.call_soon_threadsafe(stop)
        return Handling(loop)

    def stop():
        loop.stop()
        cancel_all(loop)

    server = loop.run_until_complete(loop.create_server(factory, sock=listener))
    (peer,) = connected(listener)
    loop.run_forever()
    end(loop, server)
    assert peer.recv(1) == b""
    peer.close()


@pytest.mark.parametrize("iterations", range(6))
def test_at_each_iteration(loop, listener, iterate, iterations):
    """After any number of iterations the connection is closed by one or the other."""

    def factory():
        count_down(iterations)
        return Handling(loop)

    def count_down(left):
        if left:
            loop.call_soon(count_down, left - 1)
        else:
            cancel_all(loop)
            loop.stop()

    server = loop.run_until_complete(loop.create_server(factory, sock=listener))
    (peer,) = connected(listener)
    loop.run_forever()
    iterate(10)
    end(loop, server)
    assert peer.recv(1) == b""
    peer.close()


def test_tasks_end_by_themselves(loop, listener, iterate):
    """Nothing is left of accepting when nobody cancels, and the connection lives on."""
    protocol = Recorder()
    server = loop.run_until_complete(loop.create_server(lambda: protocol, sock=listener))
    (peer,) = connected(listener)
    while not protocol.names:
        iterate()
    iterate(5)
    assert not asyncio.all_tasks(loop)
    assert not protocol.transport.is_closing()
    protocol.transport.close()
    end(loop, server)
    peer.close()


def test_task_factory(loop, listener, iterate):
    """As with asyncio's task for each connection, it is made by the loop's factory."""
    protocol = Recorder()
    made = []

    def factory(loop, coro, **kwargs):
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **kwargs)

    server = loop.run_until_complete(loop.create_server(lambda: protocol, sock=listener))
    loop.set_task_factory(factory)
    (peer,) = connected(listener)
    while not protocol.names:
        iterate()
    loop.set_task_factory(None)
    assert any("ccept" in coro.__qualname__ for coro in made)
    protocol.transport.close()
    end(loop, server)
    peer.close()


@pytest.mark.improves_on_asyncio  # it names its task that was pending
def test_a_loop_that_is_closed_meanwhile(loop, listener):
    protocol = Recorder()

    def factory():
        loop.stop()
        return protocol

    loop.run_until_complete(loop.create_server(factory, sock=listener))
    (peer,) = connected(listener)
    loop.run_forever()
    peer.close()
    protocol.transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    assert protocol.lost
