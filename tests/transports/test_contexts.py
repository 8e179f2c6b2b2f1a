"""ContextVars: each connection is a world of its own, with its maker's values."""

import asyncio
import contextvars
import socket

from tests.support.streams import BufferedRecorder, Peer, Recorder, others_done

var = contextvars.ContextVar("var", default="unset")


class Marking(Recorder):
    """Leaves a mark in data_received and looks for those of others."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def data_received(self, data):
        super().data_received(data)
        self.seen.append(var.get())
        var.set(bytes(data).decode())


async def serve(loop, factory):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()


def dial(address):
    return Peer(socket.create_connection(address))


async def test_value_set_in_one_connection_is_not_seen_in_another(loop, eventually):
    protocols = []

    def factory():
        protocols.append(Marking())
        return protocols[-1]

    server, address = await serve(loop, factory)
    first, second = dial(address), dial(address)
    first.send(b"first")
    await eventually(lambda: any(protocol.data == b"first" for protocol in protocols))
    second.send(b"second")
    await eventually(lambda: any(protocol.data == b"second" for protocol in protocols))
    assert [protocol.seen for protocol in protocols] == [["unset"], ["unset"]]
    assert var.get() == "unset"
    for peer in (first, second):
        peer.close()
    await eventually(lambda: all(protocol.lost for protocol in protocols))
    server.close()
    await server.wait_closed()


async def test_value_set_before_create_server_is_seen(loop, eventually):
    var.set("before create_server")
    protocol = Marking()
    server, address = await serve(loop, lambda: protocol)
    var.set("after create_server")
    peer = dial(address)
    peer.send(b"x")
    await eventually(lambda: protocol.seen)
    assert protocol.seen == ["before create_server"]
    peer.close()
    await eventually(lambda: protocol.lost)
    server.close()
    await server.wait_closed()


async def test_value_set_before_connecting_is_seen(loop, connect, eventually):
    var.set("client's")
    protocol = Marking()
    _, peer = await connect(protocol)
    peer.send(b"x")
    await eventually(lambda: protocol.seen)
    assert protocol.seen == ["client's"]
    assert var.get() == "client's"


async def test_values_of_data_received_do_not_reach_the_loops_context(loop, connect, eventually):
    protocol = Marking()
    _, peer = await connect(protocol)
    peer.send(b"inner")
    await eventually(lambda: protocol.data == b"inner")
    seen = []
    loop.call_soon(lambda: seen.append(var.get()))
    await eventually(lambda: seen)
    assert seen == ["unset"]


async def test_callbacks_scheduled_in_data_received_inherit(loop, connect, eventually):
    seen = []

    class Scheduling(Recorder):
        def data_received(self, data):
            super().data_received(data)
            var.set("set in data_received")
            loop.call_soon(lambda: seen.append(var.get()))
            asyncio.ensure_future(self.work())

        async def work(self):
            seen.append(var.get())

    _, peer = await connect(Scheduling())
    peer.send(b"x")
    await eventually(lambda: len(seen) == 2)
    assert seen == ["set in data_received"] * 2


async def test_buffered_protocols_are_isolated_too(loop, connect, eventually):
    class Buffered(BufferedRecorder):
        def __init__(self):
            super().__init__()
            self.seen = []

        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.seen.append(var.get())
            var.set("mine")

    one, two = Buffered(), Buffered()
    _, one_peer = await connect(one)
    _, two_peer = await connect(two)
    one_peer.send(b"x")
    await eventually(lambda: one.seen)
    two_peer.send(b"x")
    await eventually(lambda: two.seen)
    assert one.seen == two.seen == ["unset"]


async def test_protocol_factory_and_connection_made_see_the_servers_context(loop, eventually):
    var.set("server's")
    seen = []

    class Asking(Recorder):
        def __init__(self):
            super().__init__()
            seen.append(("factory", var.get()))

        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(("connection_made", var.get()))

        def connection_lost(self, exc):
            super().connection_lost(exc)
            seen.append(("connection_lost", var.get()))

    server, address = await serve(loop, Asking)
    var.set("changed")
    dial(address).close()
    await eventually(lambda: len(seen) == 3)
    assert [name for name, _ in seen] == ["factory", "connection_made", "connection_lost"]
    assert {value for _, value in seen} == {"server's"}
    server.close()
    await server.wait_closed()


async def test_stream_handlers_are_isolated(loop):
    seen = []

    async def handle(reader, writer):
        line = await reader.readline()
        seen.append(var.get())
        var.set(line.decode())
        await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for number in range(5):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"%d\n" % number)
        await reader.read()
        writer.close()
        await writer.wait_closed()
    await others_done()
    assert seen == ["unset"] * 5
    server.close()
    await server.wait_closed()
