"""`engine.serve()`: protocols on the threads of an engine."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

import hybridloop
from hybridloop import Engine, EngineClosedError, EngineServer
from hybridloop.engine.serving import services
from tests.support.leftovers import nothing_left
from tests.support.waiting import until

from .support import HOST, has_servers, threads_of

pytestmark = pytest.mark.filterwarnings("error")


class Echo(asyncio.Protocol):
    """Sends back what comes, behind the name of its thread."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(threading.current_thread().name.encode() + b"\n")

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Client:
    """A connection to `Echo`."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address[:2], timeout=60)
        self.file = self.sock.makefile("rwb", buffering=0)
        self.thread = self.file.readline().decode().strip()

    def echo(self, data: bytes) -> bytes:
        self.file.write(data)
        return self.file.read(len(data))

    def at_end(self) -> bool:
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(gil_threads=3) as engine:
        yield engine


def clients_on_each_thread(server: EngineServer, count: int) -> dict[str, Client]:
    """Connect until every thread has a client."""
    found: dict[str, Client] = {}
    deadline = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {sorted(found)} accept connections"
        client = Client(server.addresses[0])
        if client.thread in found:
            client.close()
        else:
            found[client.thread] = client
    return found


# Protocols


def test_every_thread_accepts_connections(engine: Engine) -> None:
    with engine.serve(Echo, HOST, 0) as server:
        assert server.addresses[0][0] == HOST and server.addresses[0][1] > 0
        clients = clients_on_each_thread(server, 3)
        assert sorted(clients) == [f"hybridloop-gil-{n}" for n in range(3)]
        for client in clients.values():
            assert client.echo(b"hello") == b"hello"
        until(lambda: server.connections == (1, 1, 1))
        for client in clients.values():
            client.close()
        until(lambda: server.connections == (0, 0, 0))
    assert "closed" in repr(server)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.addresses[0])


def test_threads_share_a_socket_that_is_given(engine: Engine) -> None:
    with socket.create_server((HOST, 0)) as sock:
        with engine.serve(Echo, sock=sock, threads=[0, 2]) as server:
            names = set()
            for _ in range(50):
                with Client(server.addresses[0]) as client:
                    assert client.echo(b"hello") == b"hello"
                    names.add(client.thread)
            assert names <= {"hybridloop-gil-0", "hybridloop-gil-2"}
        # It is still the caller's.
        assert sock.fileno() >= 0


def test_unix_sockets(engine: Engine, tmp_path: Any) -> None:
    path = os.fspath(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        with engine.serve(Echo, sock=sock) as server, socket.socket(socket.AF_UNIX) as client:
            assert server.addresses == (path,)
            client.settimeout(60)
            client.connect(path)
            assert client.makefile("rb").readline().startswith(b"hybridloop-gil-")


def test_several_addresses(engine: Engine) -> None:
    families = {info[0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    with engine.serve(Echo, "localhost", 0) as server:
        assert len(server.addresses) == len(families)
        for address in server.addresses:
            with Client(address) as client:
                assert client.echo(b"hello") == b"hello"


def test_an_address_that_this_machine_does_not_have(engine: Engine) -> None:
    # For documentation, so nobody's.
    with pytest.raises(OSError, match="assign requested address"):
        engine.serve(Echo, "192.0.2.1", 0)


def test_streams_and_buffered_protocols(engine: Engine) -> None:
    class Buffered(asyncio.BufferedProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport
            self.buffer = bytearray(100)

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.transport.write(bytes(self.buffer[:nbytes]).upper())  # type: ignore[attr-defined]

    async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            writer.write(line.upper())
            await writer.drain()
        writer.close()

    def streams() -> asyncio.Protocol:
        loop = asyncio.get_running_loop()
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), lines, loop=loop)

    for factory in (Buffered, streams, lambda: streams()):
        with engine.serve(factory, HOST, 0) as server:
            with socket.create_connection(server.addresses[0], timeout=60) as sock:
                sock.sendall(b"hello\n")
                assert sock.makefile("rb").readline() == b"HELLO\n"


def test_tls(engine: Engine) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with engine.serve(Echo, HOST, 0, ssl=context) as server:
        raw = socket.create_connection(server.addresses[0], timeout=60)
        with trusting.wrap_socket(raw, server_hostname="localhost") as sock:
            assert sock.recv(100).startswith(b"hybridloop-gil-")
            until(lambda: sum(server.connections) == 1)


def test_aserve_from_other_loops_and_from_its_own_tasks(engine: Engine) -> None:
    async def main() -> str:
        with pytest.raises(RuntimeError, match="await engine.aserve()"):
            engine.serve(Echo, HOST, 0)
        async with await engine.aserve(Echo, HOST, 0) as server:
            host, port = server.addresses[0]
            reader, writer = await asyncio.open_connection(host, port)
            name = (await reader.readline()).decode()
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.close()
            await writer.wait_closed()
            with pytest.raises(RuntimeError, match="await server.aclose()"):
                server.close()
        return name

    assert asyncio.run(main()).startswith("hybridloop-gil-")
    assert hybridloop.run(main()).startswith("hybridloop-gil-")
    assert engine.spawn(main()).result(60).startswith("hybridloop-gil-")


def test_what_cannot_be_served(engine: Engine) -> None:
    with socket.create_server((HOST, 0)) as taken, nothing_left():
        with pytest.raises(OSError, match="[Aa]ddress already in use"):
            engine.serve(Echo, HOST, taken.getsockname()[1])
        with pytest.raises(TypeError, match="ssl argument"):
            engine.serve(Echo, HOST, 0, ssl=True)
        with pytest.raises(TypeError, match="neither a protocol factory nor an ASGI"):
            engine.serve(lambda one, two: None, HOST, 0)
        with pytest.raises(TypeError, match="a protocol factory or an ASGI application"):
            engine.serve(42, HOST, 0)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a host and a port"):
            engine.serve(Echo)
        with pytest.raises(ValueError, match="kind must be"):
            engine.serve(Echo, HOST, 0, kind="wsgi")  # type: ignore[arg-type]
        with pytest.raises(IndexError, match="thread 3 of an engine with 3"):
            engine.serve(Echo, HOST, 0, threads=[0, 3])
        with pytest.raises(ValueError, match="threads must not be empty"):
            engine.serve(Echo, HOST, 0, threads=[])
        with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            with pytest.raises(ValueError, match="a stream socket"):
                engine.serve(Echo, sock=datagrams)
        assert not has_servers(engine)
    for unopened in (Engine(), closed_engine()):
        with pytest.raises(EngineClosedError):
            unopened.serve(Echo, HOST, 0)


def closed_engine() -> Engine:
    with Engine() as engine:
        return engine


# The end of it


def test_close_waits_for_connections_to_end() -> None:
    with Engine(gil_threads=2) as engine:
        server = engine.serve(Echo, HOST, 0)
        with Client(server.addresses[0]) as client:
            closer = threading.Thread(target=server.close)
            closer.start()
            until(lambda: _refused(server.addresses[0]))
            assert client.echo(b"still here") == b"still here"
            assert closer.is_alive()
        closer.join(60)
        assert not closer.is_alive() and server.wait(0)


def _refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=60).close()
    except ConnectionError:
        return True
    return False


def test_connections_that_stay_are_closed_after_the_graceful_timeout(engine: Engine) -> None:
    server = engine.serve(Echo, HOST, 0, graceful_timeout=0.05)
    with Client(server.addresses[0]) as client:
        assert server.close() == []
        assert client.at_end()
    assert server.connections == (0, 0, 0)


def test_what_is_buffered_still_leaves_at_the_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may take more than the second that there is for it.
    monkeypatch.setattr(services, "_FLUSH_TIME", 60.0)
    size = 8 << 20

    class Sends(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.write(bytes(size))  # type: ignore[attr-defined]

    server = engine.serve(Sends, HOST, 0, graceful_timeout=0)
    with socket.create_connection(server.addresses[0], timeout=60) as sock:
        until(lambda: sum(server.connections) == 1)
        closer = threading.Thread(target=server.close)
        closer.start()
        received = 0
        while data := sock.recv(1 << 20):
            received += len(data)
        closer.join(60)
    assert received == size


@pytest.mark.parametrize("arguments", [{"timeout": 4}, {"cancel": True}])
def test_close_aborts_what_does_not_end_in_time(engine: Engine, arguments: Any) -> None:
    lost: list[Exception | None] = []

    class Keeps(Echo):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(exc)

    server = engine.serve(Keeps, HOST, 0, graceful_timeout=None)
    with Client(server.addresses[0]) as client:
        begin = time.monotonic()
        assert server.close(**arguments) == []
        assert time.monotonic() - begin < 30
        assert client.at_end()
    assert lost == [None]


@pytest.mark.parametrize("arguments", [{}, {"timeout": 60}, {"cancel": True}])
def test_the_end_of_the_engine_ends_its_servers(arguments: Any) -> None:
    engine = Engine(gil_threads=2).start()
    server = engine.serve(Echo, HOST, 0, graceful_timeout=0.1)
    with Client(server.addresses[0]) as client:
        assert engine.close(**arguments) == []
        assert client.at_end()
        assert server.wait(0)
    assert _refused(server.addresses[0])


def test_connections_may_spawn_tasks_until_they_have_ended() -> None:
    async def answer() -> bytes:
        await asyncio.sleep(0)
        return b"answer"

    class Asks(Echo):
        def data_received(self, data: bytes) -> None:
            loop = asyncio.get_running_loop()
            engine.spawn(answer()).add_done_callback(
                lambda handle: loop.call_soon_threadsafe(self.transport.write, handle.result())
            )

    engine = Engine(gil_threads=2).start()
    server = engine.serve(Asks, HOST, 0)
    with Client(server.addresses[0]) as client:
        closer = threading.Thread(target=engine.close)
        closer.start()
        until(lambda: _refused(server.addresses[0]))
        client.file.write(b"?")
        assert client.file.read(6) == b"answer"
    closer.join(60)
    assert not closer.is_alive()


def test_a_thread_that_blocks_is_named_when_the_time_is_over() -> None:
    release = threading.Event()
    inside = threading.Event()

    class Blocks(Echo):
        def data_received(self, data: bytes) -> None:
            inside.set()
            release.wait(600)

    engine = Engine(gil_threads=2).start()
    server = engine.serve(Blocks, HOST, 0, threads=[1])
    with Client(server.addresses[0]) as client:
        client.file.write(b"x")
        assert inside.wait(60)
        begin = time.monotonic()
        assert server.close(timeout=0.2) == ["hybridloop-gil-1"]
        assert time.monotonic() - begin < 30
        with pytest.warns(ResourceWarning, match=r"hybridloop-gil-1: server 127.0.0.1:"):
            engine.close(timeout=0.2)
        thread = threads_of(engine)[1].thread
        release.set()
        thread.join(60)
        assert not thread.is_alive()
        # When it could go on, it ended as it should.
        assert client.at_end()
    assert server.connections == (0,)


def test_a_thread_that_fails_takes_its_connections_and_its_listener_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A log record would keep the frames of the thread, and with them its loop.
    monkeypatch.setattr(logging.getLogger("hybridloop.engine.loop_thread"), "disabled", True)
    with warnings.catch_warnings(), nothing_left():
        # The transports of the loop that is gone say that nobody has closed them.
        warnings.simplefilter("ignore", ResourceWarning)
        fail_one_of_three()


def fail_one_of_three() -> None:
    def broken() -> None:
        raise OSError("the selector is gone")

    with Engine(gil_threads=3) as engine:
        server = engine.serve(Echo, HOST, 0)
        clients = clients_on_each_thread(server, 3)
        thread = threads_of(engine)[1]
        thread.loop.run_forever = broken  # type: ignore[method-assign]
        thread.loop.call_soon_threadsafe(thread.loop.stop)
        thread.thread.join(60)
        assert not thread.thread.is_alive()
        assert clients["hybridloop-gil-1"].at_end()
        assert clients["hybridloop-gil-2"].echo(b"hello") == b"hello"
        names = Counter()
        for _ in range(40):
            with Client(server.addresses[0]) as client:
                names[client.thread] += 1
        assert "hybridloop-gil-1" not in names and sum(names.values()) == 40
        for client in clients.values():
            client.close()
        assert server.close(timeout=60) == []


def test_nothing_is_left_of_many_servers() -> None:
    with Engine(gil_threads=2) as engine:
        engine.serve(Echo, HOST, 0).close()
        with nothing_left():
            for _ in range(20):
                with engine.serve(Echo, HOST, 0) as server:
                    with Client(server.addresses[0]) as client:
                        client.echo(b"x")
