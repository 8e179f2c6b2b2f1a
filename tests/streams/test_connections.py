"""hybridloop's streams over connections; each test also runs with asyncio's streams.

Private attributes of readers and protocols show when they wait.
"""

import asyncio
import collections.abc
import contextlib
import gc
import inspect
import socket
import ssl
import weakref
from unittest import mock

import pytest
import trustme

import hybridloop
from tests.support.streams import limited, others_done

from .conftest import python_calls

MIB = 1 << 20
FEEDING = {"data_received", "feed_data", "_wakeup_waiter", "_stream_reader"}


@pytest.fixture(params=[hybridloop, asyncio], ids=["hybridloop", "asyncio"])
def streams(request):
    """The module whose streams are used."""
    return request.param


@pytest.fixture
def serve(loop, streams):
    """``address = await serve(handler)``"""
    servers = []

    async def serve(handler, **options):
        server = await streams.start_server(handler, "127.0.0.1", 0, **options)
        servers.append(server)
        return server.sockets[0].getsockname()

    yield serve
    for server in servers:
        server.close()
    loop.run_until_complete(others_done())


async def echo(reader, writer):
    try:
        while data := await reader.read(MIB):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def closed(writer):
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize("size", [1, 1000, 100_000, 16 * MIB])
async def test_echo(loop, streams, serve, size):
    reader, writer = await streams.open_connection(*await serve(echo))
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)

    async def send():
        for start in range(0, size, 64 * 1024):
            writer.write(data[start : start + 64 * 1024])
            await writer.drain()

    sending = asyncio.create_task(send())
    assert await reader.readexactly(size) == data
    await sending
    await closed(writer)


async def test_lines(loop, streams, serve):
    async def count(reader, writer):
        number = 0
        async for line in reader:
            number += len(line)
        writer.writelines([b"%d" % number, b"\n"])
        writer.write_eof()
        await writer.drain()
        await closed(writer)

    reader, writer = await streams.open_connection(*await serve(count))
    for number in range(1000):
        writer.write(b"x" * number + b"\n")
    assert writer.can_write_eof()
    writer.write_eof()
    assert await reader.read() == b"500500\n"
    assert reader.at_eof()
    await closed(writer)


async def test_unix_sockets(loop, streams, tmp_path):
    server = await streams.start_unix_server(echo, tmp_path / "socket")
    async with server:
        reader, writer = await streams.open_unix_connection(tmp_path / "socket")
        writer.write(b"data")
        assert await reader.readexactly(4) == b"data"
        await closed(writer)
        await others_done()


async def test_a_callback_that_is_no_coroutine(loop, streams, serve):
    met = loop.create_future()
    address = await serve(lambda reader, writer: met.set_result((reader, writer)))
    reader, writer = await streams.open_connection(*address)
    server_reader, server_writer = await met
    server_writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    assert server_writer.get_extra_info("peername") == writer.get_extra_info("sockname")
    assert isinstance(server_reader, asyncio.StreamReader)
    assert isinstance(server_writer, asyncio.StreamWriter)
    await closed(writer)
    await closed(server_writer)


async def test_an_exception_of_the_callback_is_reported(loop, streams, serve, unhandled):
    async def fail(reader, writer):
        raise LookupError("test")

    reader, writer = await streams.open_connection(*await serve(fail))
    assert await reader.read() == b""
    (context,) = unhandled
    assert context["message"] == "Unhandled exception in client_connected_cb"
    assert isinstance(context["exception"], LookupError)
    assert isinstance(context["transport"], asyncio.Transport)
    await closed(writer)


async def test_an_exception_of_a_callback_that_is_no_coroutine_is_reported(
    streams, serve, unhandled
):
    source = inspect.getsource(asyncio.StreamReaderProtocol.connection_made)
    if streams is asyncio and "except Exception" not in source:
        pytest.skip("asyncio of this Python leaves the connection open")

    def fail(reader, writer):
        raise LookupError("test")

    reader, writer = await streams.open_connection(*await serve(fail))
    assert await reader.read() == b""
    (context,) = unhandled
    assert context["message"] == "Unhandled exception in client_connected_cb"
    assert isinstance(context["exception"], LookupError)
    assert isinstance(context["transport"], asyncio.Transport)
    await closed(writer)


async def test_a_cancelled_callback_closes_the_connection(loop, streams, serve):
    source = inspect.getsource(asyncio.StreamReaderProtocol.connection_made)
    if streams is asyncio and "task.cancelled()" not in source:
        pytest.skip("asyncio of this Python leaves the connection open")
    tasks = []

    async def wait(reader, writer):
        tasks.append(asyncio.current_task())
        await reader.read()

    reader, writer = await streams.open_connection(*await serve(wait))
    while not tasks:
        await asyncio.sleep(0)
    tasks[0].cancel()
    assert await reader.read() == b""
    await closed(writer)


async def test_drain_waits_for_room(loop, streams, opened, eventually):
    reader, writer, peer = await small(streams, opened)
    writer.write(b"x" * 4 * MIB)
    waiting = [asyncio.create_task(writer.drain()) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting)
    waiting[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[1]
    assert len(writer.transport.get_protocol()._drain_waiters) == 2
    assert len(await peer.read(4 * MIB)) == 4 * MIB
    await asyncio.gather(waiting[0], waiting[2])
    assert not writer.transport.get_protocol()._drain_waiters
    await writer.drain()


async def small(streams, opened):
    """A connection with small socket buffers."""
    from tests.support.streams import Peer, tcp_pair

    ours, theirs = limited(*tcp_pair())
    peer = Peer(theirs)
    opened.append(peer)
    reader, writer = await streams.open_connection(sock=ours)
    opened.append(writer)
    return reader, writer, peer


async def test_drain_when_the_connection_is_lost(loop, streams, opened):
    reader, writer, peer = await small(streams, opened)
    writer.write(b"x" * 4 * MIB)
    waiting = asyncio.create_task(writer.drain())
    await asyncio.sleep(0)
    peer.reset()
    with pytest.raises(ConnectionError):
        await waiting
    with pytest.raises(ConnectionError):
        await writer.drain()
    with pytest.raises(ConnectionError):
        await reader.read()
    with pytest.raises(ConnectionError):
        await writer.wait_closed()


async def test_drain_after_close(loop, streams, connect):
    reader, writer, _ = await connect(streams.open_connection)
    assert not writer.is_closing()
    writer.close()
    assert writer.is_closing()
    with pytest.raises(ConnectionResetError, match="Connection lost"):
        await writer.drain()
    await writer.wait_closed()


@pytest.mark.parametrize("name", ["read", "readline", "readuntil", "readexactly", "__anext__"])
async def test_cancelled_reads_lose_nothing(loop, streams, connect, eventually, name):
    reader, _, peer = await connect(streams.open_connection)
    args = (100,) if name.startswith("read") and name in ("read", "readexactly") else ()
    for cancel_after_data in (False, True):
        waiting = asyncio.ensure_future(getattr(reader, name)(*args))
        await eventually(lambda: reader._waiter is not None)
        if cancel_after_data:
            peer.send(b"part")
            await eventually(lambda: len(reader._buffer) == 4 or reader._waiter is None)
        waiting.cancel()
        if name == "read" and cancel_after_data:
            with contextlib.suppress(asyncio.CancelledError):
                assert await waiting == b"part"
                peer.send(b"part")
        else:
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert reader._waiter is None
    peer.send(b"end\n")
    assert await reader.readline() == b"partend\n"


@pytest.mark.parametrize("name", ["read", "readline", "readexactly", "readuntil"])
async def test_end_of_file_and_reset_while_reading(loop, streams, connect, eventually, name):
    args = (100,) if name == "readexactly" else ()
    for reset in (False, True):
        for partial in (b"", b"part"):
            reader, writer, peer = await connect(streams.open_connection)
            waiting = asyncio.ensure_future(getattr(reader, name)(*args))
            await eventually(lambda it=reader: it._waiter is not None)
            if partial:
                peer.send(partial)
                for _ in range(3):
                    await asyncio.sleep(0)
            if reset:
                peer.reset()
                with pytest.raises(ConnectionResetError):
                    await waiting
                assert isinstance(reader.exception(), ConnectionResetError)
                with pytest.raises(ConnectionResetError):
                    await reader.readline()
            else:
                peer.sock.shutdown(socket.SHUT_WR)
                if name in ("read", "readline"):
                    assert await waiting == partial
                else:
                    with pytest.raises(asyncio.IncompleteReadError) as caught:
                        await waiting
                    assert caught.value.partial == partial
                assert reader.at_eof()
            await closed(writer)


async def test_limits(loop, streams, connect, eventually):
    reader, writer, peer = await connect(streams.open_connection, limit=1024)
    peer.send(b"x" * 1500)
    with pytest.raises(asyncio.LimitOverrunError) as caught:
        await reader.readuntil(b"\n")
    assert caught.value.consumed == 1500
    assert caught.value.args == ("Separator is not found, and chunk exceed the limit",)
    peer.send(b"\nline\n")
    await eventually(lambda: len(reader._buffer) == 1506)
    with pytest.raises(ValueError, match="Separator is found, but chunk is longer than limit"):
        await reader.readline()
    assert await reader.readline() == b"line\n"
    peer.send(b"y" * 2049)
    await eventually(lambda: not writer.transport.is_reading())
    peer.send(b"z" * 10_000)
    assert len(await reader.readexactly(12_049)) == 12_049
    assert writer.transport.is_reading()


@pytest.fixture(scope="module")
def contexts():
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


async def test_tls(loop, streams, serve, contexts):
    server_context, client_context = contexts
    address = await serve(echo, ssl=server_context)
    reader, writer = await streams.open_connection(
        *address, ssl=client_context, server_hostname="localhost"
    )
    for size in (1, 1000, 300_000):
        writer.write(b"x" * size)
        await writer.drain()
        assert await reader.readexactly(size) == b"x" * size
    assert writer.get_extra_info("ssl_object") is not None
    await closed(writer)
    await others_done()


async def test_start_tls(loop, streams, serve, contexts):
    server_context, client_context = contexts

    async def upgrade(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.start_tls(server_context)
        await echo(reader, writer)

    reader, writer = await streams.open_connection(*await serve(upgrade))
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"go\n"
    await writer.start_tls(client_context, server_hostname="localhost")
    for size in (1, 1000, 300_000):
        writer.write(b"x" * size)
        await writer.drain()
        assert await reader.readexactly(size) == b"x" * size
    assert writer.get_extra_info("ssl_object") is not None
    await closed(writer)
    await others_done()


@pytest.mark.improves_on_asyncio
@pytest.mark.parametrize("layers", [1, 2])
async def test_start_tls_after_the_handshake_has_begun(loop, streams, serve, contexts, layers):
    """What came in before `start_tls()` is TLS, and the reader has it already."""
    if layers > 1 and "_buffer" not in inspect.getsource(asyncio.BaseEventLoop.start_tls):
        pytest.skip("over transports of others this is asyncio's, and came with a patch release")
    server_context, client_context = contexts

    async def upgrade(reader, writer):
        for _ in range(layers):
            while not reader._buffer:
                await asyncio.sleep(0.001)
            await writer.start_tls(server_context)
        await echo(reader, writer)

    reader, writer = await streams.open_connection(*await serve(upgrade))
    for _ in range(layers):
        async with asyncio.timeout(60):
            await writer.start_tls(client_context, server_hostname="localhost")
    for size in (1, 1000, 300_000):
        writer.write(b"x" * size)
        await writer.drain()
        assert await reader.readexactly(size) == b"x" * size
    await closed(writer)
    await others_done()


async def test_replaced_methods_of_a_transport_are_called(loop, streams, serve):
    reader, writer = await streams.open_connection(*await serve(echo))
    transport = writer.transport
    with mock.patch.object(transport, "write") as write:
        writer.write(b"one")
        write.assert_called_once_with(b"one")
    with mock.patch.object(transport, "writelines") as writelines:
        writer.writelines([b"two"])
        writelines.assert_called_once_with([b"two"])
    with mock.patch.object(transport, "is_closing", return_value=True) as is_closing:
        assert writer.is_closing() is True
        await writer.drain()
        assert is_closing.call_count >= 2
    with mock.patch.object(transport, "get_extra_info", return_value="replaced"):
        assert writer.get_extra_info("peername") == "replaced"
    writer.write(b"three\n")
    assert await reader.readexactly(6) == b"three\n"
    with mock.patch.object(transport, "close", wraps=transport.close) as close:
        await closed(writer)
        assert close.called
    await others_done()


async def test_unclosed_writer_closes_and_warns(loop, streams, serve):
    reader, writer = await streams.open_connection(*await serve(echo))
    transport = writer.transport
    with pytest.warns(ResourceWarning, match="unclosed <StreamWriter"):
        del writer
        gc.collect()
    assert transport.is_closing()
    assert await reader.read() == b""
    await others_done()


async def test_garbage(loop, streams, serve):
    reader, writer = await streams.open_connection(*await serve(echo))
    writer.write(b"data")
    assert await reader.readexactly(4) == b"data"
    await closed(writer)
    await others_done()
    reader.itself = [reader, writer]
    gone = [weakref.ref(reader), weakref.ref(writer)]
    del reader, writer
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


async def test_garbage_that_waits(loop, streams):
    reader = streams.StreamReader(loop=loop)
    waiting = reader.readline()
    waiting.send(None)
    reader.waiting = waiting
    gone = weakref.ref(reader)
    del reader, waiting
    gc.collect()
    assert gone() is None


async def test_calls_are_coroutines(loop, streams, connect):
    reader, writer, peer = await connect(streams.open_connection)
    peer.send(b"x" * 5 + b"\n" * 5)
    calls = [
        reader.read(1),
        reader.readexactly(1),
        reader.readuntil(b"x"),
        reader.readline(),
        writer.drain(),
    ]
    for call in calls:
        assert inspect.isawaitable(call)
        assert asyncio.iscoroutine(call)
        assert isinstance(call, collections.abc.Coroutine)
        assert call.__name__ == call.__qualname__.rsplit(".")[-1]
    assert await asyncio.wait_for(calls[0], 60) == b"x"
    assert await asyncio.create_task(calls[1]) == b"x"
    assert await asyncio.gather(calls[2]) == [b"x"]
    assert await asyncio.shield(calls[3]) == b"xx\n"
    assert await calls[4] is None
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await calls[4]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(100), 0.01)
    assert await reader.read(100) == b"\n\n\n\n"
    async with asyncio.timeout(60):
        peer.send(b"last")
        assert await reader.readexactly(4) == b"last"
    with pytest.warns(RuntimeWarning, match=r"coroutine 'StreamReader\.read' was never awaited"):
        reader.read(1)


async def test_signatures(loop):
    for name in ("StreamReader", "StreamWriter"):
        ours, theirs = getattr(hybridloop, name), getattr(asyncio, name)
        for method in vars(theirs):
            if not method.startswith("_") and callable(getattr(theirs, method)):
                got, expected = (
                    [(p.name, p.default) for p in inspect.signature(it).parameters.values()]
                    for it in (getattr(ours, method), getattr(theirs, method))
                )
                assert got == expected, method


async def test_no_python_call_for_a_message(loop, connect, eventually):
    reader, writer, peer = await connect(hybridloop.open_connection)
    with python_calls() as calls:
        peer.send(b"line\n")
        line = await reader.readline()
        writer.write(line)
        await writer.drain()
    assert await peer.read(5) == b"line\n"
    assert not calls & (FEEDING | {"readline", "readuntil", "drain", "_drain_helper", "write"})


async def test_overridden_methods_are_called(loop, connect):
    fed, drained = [], []

    class Reader(hybridloop.StreamReader):
        def feed_data(self, data):
            fed.append(bytes(data))
            super().feed_data(data)

    class Protocol(hybridloop.StreamReaderProtocol):
        async def _drain_helper(self):
            drained.append(True)
            await super()._drain_helper()

    async def open_connection(sock):
        reader = Reader(loop=loop)
        protocol = Protocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
        return reader, hybridloop.StreamWriter(transport, protocol, reader, loop)

    reader, writer, peer = await connect(open_connection)
    peer.send(b"data")
    assert await reader.readexactly(4) == b"data"
    assert b"".join(fed) == b"data"
    await writer.drain()
    assert drained


def test_they_run_on_asyncio_as_well():
    async def main():
        server = await hybridloop.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await hybridloop.open_connection(*server.sockets[0].getsockname())
            writer.write(b"data\n")
            await writer.drain()
            assert await reader.readline() == b"data\n"
            await closed(writer)
            await others_done()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())
