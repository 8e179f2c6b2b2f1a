"""Private methods of asyncio: which arguments hybridloop knows, and what becomes of others."""

import asyncio
import contextvars
import socket
from asyncio import selector_events

import pytest

pytest.importorskip("hybridloop._core", reason="the extension is not built")

from hybridloop.loop import compat

BASE = selector_events.BaseSelectorEventLoop
var = contextvars.ContextVar("var", default="unset")


def test_the_running_asyncio_is_known():
    assert compat.differences() == []


def test_an_argument_that_is_not_known_is_named(monkeypatch):
    def _add_reader(self, fd, callback, *args, context=None, later=None):
        pass

    monkeypatch.setattr(BASE, "_add_reader", _add_reader)
    assert compat.differences() == [
        "BaseSelectorEventLoop._add_reader() has unknown parameters: later"
    ]
    with pytest.raises(
        ImportError, match=r"BaseSelectorEventLoop\._add_reader\(\) has unknown parameters: later"
    ):
        compat.check()


def test_a_required_argument_that_is_not_passed_is_named(monkeypatch):
    def _check_closed(self, why, how=1, *, when, where=2):
        pass

    monkeypatch.setattr(asyncio.BaseEventLoop, "_check_closed", _check_closed)
    assert compat.differences() == [
        "BaseEventLoop._check_closed() has unknown parameters: why, when"
    ]


def test_a_method_that_is_gone_is_named(monkeypatch):
    monkeypatch.delattr(BASE, "_write_to_self")
    monkeypatch.delattr(asyncio.BaseEventLoop, "_write_to_self", raising=False)
    assert compat.differences() == ["asyncio has no BaseSelectorEventLoop._write_to_self()"]


class Echo(asyncio.Protocol):
    def __init__(self):
        self.seen = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.seen.append(var.get())
        self.transport = transport

    def data_received(self, data):
        self.seen.append(var.get())
        self.transport.write(data)

    def connection_lost(self, exc):
        self.lost.set_result(var.get())


def accepts_later(monkeypatch, name):
    """asyncio's method, as a later release might have it; what it was given is kept."""
    given = []
    stock = getattr(BASE, name)

    def method(self, *args, later=None, **kwargs):
        given.append(later)
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(BASE, name, method)
    return given


async def check_echo(loop, client, protocol):
    client.setblocking(False)
    await loop.sock_sendall(client, b"there and back")
    assert await loop.sock_recv(client, 100) == b"there and back"
    client.close()
    await protocol.lost


async def test_make_socket_transport_passes_on_what_it_does_not_know(loop, monkeypatch):
    given = accepts_later(monkeypatch, "_make_socket_transport")
    client, server = socket.socketpair()
    server.setblocking(False)
    protocol = Echo()
    loop._make_socket_transport(server, protocol, later="x")
    assert given == ["x"]
    await check_echo(loop, client, protocol)


async def test_start_serving_passes_on_what_it_does_not_know(loop, monkeypatch):
    given = accepts_later(monkeypatch, "_start_serving")
    protocols = []

    def factory():
        protocols.append(Echo())
        return protocols[-1]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        loop._start_serving(factory, listener, later="x")
        assert given == ["x"]
        client = socket.create_connection(listener.getsockname())
        while not protocols:
            await asyncio.sleep(0.001)
        await check_echo(loop, client, protocols[0])
        loop._stop_serving(listener)


async def test_make_datagram_transport_passes_on_what_it_does_not_know(loop, monkeypatch):
    given = accepts_later(monkeypatch, "_make_datagram_transport")
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.setblocking(False)
    transport = loop._make_datagram_transport(sock, asyncio.DatagramProtocol(), later="x")
    assert given == ["x"]
    transport.close()
    await asyncio.sleep(0.01)


def context_with(value):
    context = contextvars.copy_context()
    context.run(var.set, value)
    return context


async def test_make_socket_transport_takes_a_context(loop):
    client, server = socket.socketpair()
    server.setblocking(False)
    protocol = Echo()
    loop._make_socket_transport(server, protocol, context=context_with("given"))
    await check_echo(loop, client, protocol)
    assert protocol.seen == ["given", "given"]
    assert await protocol.lost == "given"


async def test_start_serving_takes_a_context_and_copies_it_for_each_connection(loop):
    protocols = []

    class Marking(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            var.set("another's")

    def factory():
        protocols.append(Marking())
        return protocols[-1]

    context = context_with("given")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        loop._start_serving(factory, listener, context=context)
        for number in range(2):
            client = socket.create_connection(listener.getsockname())
            while len(protocols) <= number:
                await asyncio.sleep(0.001)
            await check_echo(loop, client, protocols[number])
        loop._stop_serving(listener)
    assert [protocol.seen for protocol in protocols] == [["given", "another's"]] * 2
    assert context[var] == "given"


async def test_add_reader_and_add_writer_take_a_context(loop):
    seen = []
    first, second = socket.socketpair()
    with first, second:
        second.send(b"x")
        for add, remove in (
            (loop._add_reader, loop._remove_reader),
            (loop._add_writer, loop._remove_writer),
        ):
            called = loop.create_future()

            def callback(name, called=called, remove=remove):
                seen.append((name, var.get()))
                remove(first)
                called.set_result(None)

            add(first, callback, add.__name__, context=context_with("given"))
            await called
    assert seen == [("_add_reader", "given"), ("_add_writer", "given")]
