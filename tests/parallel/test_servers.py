"""Servers and clients: callbacks, what they return, and how connections end."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import pytest

from hybridloop import parallel

from .support import Running, read_all, read_exactly, serving, until


def reset(sock: socket.socket) -> None:
    """End a connection by a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("given", [b"bytes", bytearray(b"bytes"), "bytes", lambda self: b"bytes"])
def test_initial_bytes_and_then_the_end(given: Any) -> None:
    class Says:
        initial_bytes_to_send = given

    with serving(Says) as running:
        with running.connect() as sock:
            assert read_all(sock) == b"bytes"
        with running.connect() as sock:
            # Nothing that comes is of interest.
            sock.sendall(b"?")
            assert read_all(sock) == b"bytes"


def test_a_class_without_callbacks_disconnects() -> None:
    class Disconnect:
        pass

    with serving(Disconnect) as running, running.connect() as sock:
        assert read_all(sock) == b""


@pytest.mark.parametrize("given", [b"next!", lambda self: "next!"])
def test_next_bytes_answer_whatever_comes(given: Any) -> None:
    class Next:
        initial_bytes_to_send = b"first"
        next_bytes_to_send = given

        def data_received(self, transport: Any, data: bytes) -> None:
            raise AssertionError("not with next_bytes_to_send")

    with serving(Next) as running, running.connect() as sock:
        assert read_exactly(sock, 5) == b"first"
        for _ in range(3):
            sock.sendall(b"something")
            assert read_exactly(sock, 5) == b"next!"


def test_each_connection_has_an_instance_and_callbacks_see_the_order() -> None:
    log: list[Any] = []

    class Protocol(parallel.Protocol):
        initial_bytes_to_send = "initial,"

        def __init__(self) -> None:
            self.count = 0

        def connection_made(self, transport: Any, data: bytes) -> str:
            assert data == b"" and transport.protocol is self
            log.append("made")
            return "made,"

        def data_received(self, transport: Any, data: bytes) -> str:
            self.count += 1
            log.append(("received", data))
            return f"{self.count}"

        def data_sent(self, transport: Any, data: bytes) -> None:
            log.append(("sent", data))

        def connection_closed(self, transport: Any, op: int) -> None:
            log.append(("closed", op))

    with serving(Protocol) as running:
        for _ in range(2):
            with running.connect() as sock:
                assert read_exactly(sock, 13) == b"initial,made,"
                for n in (b"1", b"2"):
                    sock.sendall(b"x")
                    assert read_exactly(sock, 1) == n
            until(lambda: log and log[-1] == ("closed", parallel.IoOp.DISCONNECT))
            assert log == [
                ("sent", b"initial,"),
                "made",
                ("sent", b"made,"),
                ("received", b"x"),
                ("sent", b"1"),
                ("received", b"x"),
                ("sent", b"2"),
                ("closed", 5),
            ]
            log.clear()


def test_connection_made_without_data_as_an_argument() -> None:
    class Protocol:
        def connection_made(self, transport: Any) -> bytes:
            return b"hello"

    with serving(Protocol) as running, running.connect() as sock:
        assert read_all(sock) == b"hello"


def test_one_thing_after_the_other_and_much_of_it() -> None:
    """What is returned is on its way to a slow peer: nothing else is called meanwhile."""
    received: list[int] = []

    class Slow:
        def data_received(self, transport: Any, data: bytes) -> bytes:
            received.append(len(data))
            return data * 100

    size, more = 40_000, 300_000
    with serving(Slow) as running, running.connect() as sock:
        sock.sendall(b"a" * size)
        until(lambda: received)
        calls = len(received)
        sender = threading.Thread(target=sock.sendall, args=(b"b" * more,))
        sender.start()
        time.sleep(0.05)
        assert len(received) <= calls + 1
        total = 100 * (size + more)
        count = 0
        while count < total:
            count += len(sock.recv(1 << 20))
        sender.join()
        assert count == total and sum(received) == size + more


class TestLines:
    def test_lines_come_whole(self) -> None:
        class EchoLine:
            line_mode = True

            def line_received(self, transport: Any, line: bytes) -> bytes:
                assert line.count(b"\n") == 1
                return b"<" + line

        with serving(EchoLine) as running, running.connect() as sock:
            for part in (b"o", b"ne\r\ntw", b"o\n\nthr"):
                sock.sendall(part)
                time.sleep(0.01)
            assert read_exactly(sock, 13) == b"<one\r\n<two\n<\n"
            sock.sendall(b"ee\n")
            assert read_exactly(sock, 7) == b"<three\n"

    def test_the_rest_comes_at_the_end(self) -> None:
        class Lines:
            line_mode = True
            wait_for_eol = False

            def line_received(self, transport: Any, line: bytes) -> bytes:
                return b"<" + line + b">"

        class WholeLines(Lines):
            wait_for_eol = True

        for protocol, expected in ((Lines, b"<a\n><b>"), (WholeLines, b"<a\n>")):
            with serving(protocol) as running, running.connect() as sock:
                sock.sendall(b"a\nb")
                sock.shutdown(socket.SHUT_WR)
                assert read_all(sock) == expected

    def test_several_lines_at_once(self) -> None:
        class Lines:
            lines_mode = True

            def lines_received(self, transport: Any, lines: list[bytes]) -> bytes:
                return b"|".join(lines)

        with serving(Lines) as running, running.connect() as sock:
            sock.sendall(b"a\nb\nc\nrest")
            assert read_exactly(sock, 8) == b"a\n|b\n|c\n"

    def test_the_mode_may_change(self) -> None:
        class HeadThenBody:
            line_mode = True

            def line_received(self, transport: Any, line: bytes) -> bytes:
                self.line_mode = False
                return b"line:" + line

            def data_received(self, transport: Any, data: bytes) -> bytes:
                return b"data:" + data

        with serving(HeadThenBody) as running, running.connect() as sock:
            sock.sendall(b"head\nbody\nbody")
            assert read_exactly(sock, 24) == b"line:head\ndata:body\nbody"

    def test_a_line_that_is_too_long(self) -> None:
        class Short:
            line_mode = True
            max_line_length = 10

            def line_received(self, transport: Any, line: bytes) -> bytes:
                return line

        with serving(Short, errors=1) as running, running.connect() as sock:
            sock.sendall(b"short\n")
            assert read_exactly(sock, 6) == b"short\n"
            sock.sendall(b"x" * 11)
            assert read_all(sock) == b""
        assert "longer than 10 bytes" in str(running.errors[0])

    def test_many_lines_in_one_go(self) -> None:
        class Count:
            line_mode = True
            count = 0

            def line_received(self, transport: Any, line: bytes) -> bytes | None:
                self.count += 1
                return b"%d" % self.count if line == b"end\n" else None

        with serving(Count) as running, running.connect() as sock:
            sock.sendall(b"x\n" * 100_000 + b"end\n")
            assert read_exactly(sock, 6) == b"100001"


class TestErrors:
    def test_run_raises_what_nobody_takes_and_the_connection_ends(self) -> None:
        class Fails:
            def data_received(self, transport: Any, data: bytes) -> None:
                raise LookupError(data)

        with serving(Fails, errors=2) as running:
            for data in (b"one", b"two"):
                with running.connect() as sock:
                    sock.sendall(data)
                    assert read_all(sock) == b""
        assert [type(error) for error in running.errors] == [LookupError, LookupError]

    @pytest.mark.parametrize("arguments", [2, 3])
    def test_an_exception_handler_takes_it_and_the_connection_goes_on(self, arguments: int) -> None:
        seen: list[Any] = []

        class Base:
            def data_received(self, transport: Any, data: bytes) -> bytes:
                return data if data != b"bad" else int(data)  # type: ignore[return-value]

        class Two(Base):
            def exception_handler(self, transport: Any, exc: Any) -> None:
                seen.append((transport.protocol is self, exc))

        class Three(Base):
            def exception_handler(self, transport: Any, syscall: str, exc: Any) -> None:
                seen.append((syscall == "data_received", exc))

        with serving(Two if arguments == 2 else Three) as running, running.connect() as sock:
            sock.sendall(b"bad")
            until(lambda: seen)
            sock.sendall(b"good")
            assert read_exactly(sock, 4) == b"good"
        ((fine, (kind, value, traceback)),) = seen
        assert fine and kind is ValueError and isinstance(value, ValueError) and traceback

    def test_a_handler_that_fails_is_raised_by_run(self) -> None:
        class Fails:
            def data_received(self, transport: Any, data: bytes) -> None:
                raise OSError

            def exception_handler(self, transport: Any, exc: Any) -> None:
                raise KeyError("in the handler")

        class Returns(Fails):
            def exception_handler(self, transport: Any, exc: Any) -> Any:
                return 1

        for protocol, kind in ((Fails, KeyError), (Returns, ValueError)):
            with serving(protocol, errors=1) as running, running.connect() as sock:
                sock.sendall(b"x")
                assert read_all(sock) == b""
            assert type(running.errors[0]) is kind

    @pytest.mark.parametrize("name", ["connection_made", "data_received", "initial_bytes_to_send"])
    def test_what_cannot_be_sent(self, name: str) -> None:
        def callback(self: Any, *args: Any) -> Any:
            return 5

        protocol = type("Wrong", (), {name: callback})
        with serving(protocol, errors=1) as running, running.connect() as sock:
            if name == "data_received":
                sock.sendall(b"x")
            assert read_all(sock) == b""
        assert "has to be bytes, bytearray or str, not int: 5" in str(running.errors[0])
        assert isinstance(running.errors[0], ValueError)

    def test_bytes_and_str_do_not_add_up(self) -> None:
        """As the first example of PyParallel's README has it."""

        class Hello:
            def data_received(self, transport: Any, data: bytes) -> Any:
                return b"You said: " + data + "\r\n"  # type: ignore[operator]

        with serving(Hello, errors=1) as running, running.connect() as sock:
            sock.sendall(b"x")
            assert read_all(sock) == b""
        assert isinstance(running.errors[0], TypeError)

    def test_a_class_that_cannot_be_made(self) -> None:
        class Fails:
            def __init__(self) -> None:
                raise LookupError("no instance")

        with serving(Fails, errors=1) as running, running.connect() as sock:
            try:
                assert sock.recv(1) == b""
            except ConnectionResetError:
                pass
        assert str(running.errors[0]) == "no instance"
        assert running.server.num_children == 0 and running.server.retired_clients == 1


class TestEnds:
    def test_a_reset_is_a_loss(self) -> None:
        seen: list[Any] = []

        class Protocol:
            def data_received(self, transport: Any, data: bytes) -> bytes:
                return data

            def connection_lost(self, transport: Any, op: int) -> None:
                seen.append(op)

        with serving(Protocol) as running:
            sock = running.connect()
            sock.sendall(b"x")
            assert read_exactly(sock, 1) == b"x"
            reset(sock)
            until(lambda: seen)
        assert seen == [parallel.IoOp.RECV]

    def test_what_could_not_be_sent(self) -> None:
        failed: list[bytes] = []

        class Protocol:
            def data_received(self, transport: Any, data: bytes) -> bytes:
                return b"x" * (32 << 20)

            def send_failed(self, transport: Any, data: bytes) -> None:
                failed.append(data)

            def connection_lost(self, transport: Any, op: int) -> None:
                failed.append(b"%d" % op)

        with serving(Protocol) as running:
            sock = running.connect()
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            reset(sock)
            until(lambda: len(failed) == 2)
        assert len(failed[0]) == 32 << 20 and failed[1] == b"4"

    def test_nothing_happens_for_too_long(self) -> None:
        seen: list[Any] = []

        class Protocol:
            def data_received(self, transport: Any, data: bytes) -> bytes:
                return data

            def connection_timeout(self, transport: Any, op: int) -> None:
                seen.append((op, transport.sock_timeout))

        with serving(Protocol, timeout=0.1) as running, running.connect() as sock:
            begin = time.monotonic()
            for _ in range(4):
                sock.sendall(b"x")
                assert read_exactly(sock, 1) == b"x"
                time.sleep(0.04)
            try:
                assert sock.recv(1) == b""
            except ConnectionResetError:
                pass
            assert time.monotonic() - begin >= 0.2
        assert seen == [(parallel.IoOp.RECV, 0.1)]

    def test_closing_by_a_callback_sends_first_what_it_returns(self) -> None:
        class Protocol:
            def data_received(self, transport: Any, data: bytes) -> bytes:
                transport.close()
                return b"x" * 5_000_000

        with serving(Protocol) as running, running.connect() as sock:
            sock.sendall(b"x")
            assert len(read_all(sock)) == 5_000_000

    def test_closing_from_another_thread(self) -> None:
        transports: list[Any] = []

        class Protocol:
            def connection_made(self, transport: Any, data: bytes) -> None:
                transports.append(transport)

            def data_received(self, transport: Any, data: bytes) -> None:
                pass

        with serving(Protocol) as running, running.connect() as sock:
            until(lambda: transports)
            transports[0].close()
            transports[0].close()
            assert sock.recv(1) == b""
        transports[0].close()

    def test_a_sender_without_end_is_closed(self) -> None:
        class Chargen:
            def initial_bytes_to_send(self) -> bytes:
                return b"0"

            def send_complete(self, transport: Any, send_id: int) -> bytes:
                if send_id == 1000:
                    transport.close()
                return b"%d" % send_id

        with serving(Chargen) as running, running.connect() as sock:
            data = read_all(sock)
        assert data == b"0" + b"".join(b"%d" % n for n in range(1, 1001))

    def test_a_callback_shuts_the_server_down(self) -> None:
        class Protocol:
            def data_received(self, transport: Any, data: bytes) -> bytes:
                transport.shutdown_server()
                return b"bye"

        running = Running(Protocol)
        with running.connect() as idle, running.connect() as sock:
            sock.sendall(b"end")
            assert read_all(sock) == b"bye"
            assert idle.recv(1) == b""
        running.thread.join(20)
        assert not running.thread.is_alive() and not running.errors
        with pytest.raises(OSError):
            running.connect()

    def test_a_peer_that_does_not_read_does_not_hold_the_end_up(self) -> None:
        class Protocol:
            def connection_made(self, transport: Any, data: bytes) -> bytes:
                return b"x" * (32 << 20)

        running = Running(Protocol)
        with running.connect() as sock:
            assert sock.recv(1) == b"x"
            running.server.shutdown(timeout=0.05)
            running.thread.join(20)
            assert not running.thread.is_alive() and not running.errors
        assert running.server.num_children == 0


class TestAwaiting:
    def test_async_callbacks(self) -> None:
        class Protocol:
            async def connection_made(self, transport: Any, data: bytes) -> bytes:
                await asyncio.sleep(0.01)
                return b"later;"

            async def data_received(self, transport: Any, data: bytes) -> bytes:
                await asyncio.sleep(0.01)
                return data.upper()

        with serving(Protocol) as running, running.connect() as sock:
            sock.sendall(b"early")
            assert read_exactly(sock, 11) == b"later;EARLY"

    def test_an_exception_of_an_async_callback(self) -> None:
        class Protocol:
            async def data_received(self, transport: Any, data: bytes) -> bytes:
                await asyncio.sleep(0)
                raise LookupError("async")

        with serving(Protocol, errors=1) as running, running.connect() as sock:
            sock.sendall(b"x")
            assert read_all(sock) == b""
        assert str(running.errors[0]) == "async"

    def test_the_end_of_the_connection_cancels(self) -> None:
        cancelled = threading.Event()
        begun = threading.Event()

        class Protocol:
            async def data_received(self, transport: Any, data: bytes) -> bytes:
                begun.set()
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    cancelled.set()
                    raise
                return b""

        with serving(Protocol) as running:
            sock = running.connect()
            sock.sendall(b"x")
            assert begun.wait(20)
            reset(sock)
            assert cancelled.wait(20)


class TestClients:
    def test_a_client_talks_to_a_server(self) -> None:
        seen: list[Any] = []

        class Upper:
            def data_received(self, transport: Any, data: bytes) -> bytes:
                return data.upper()

        class Talks:
            initial_bytes_to_send = b"hello"

            def data_received(self, transport: Any, data: bytes) -> bytes | None:
                seen.append(data)
                if len(seen) == 3:
                    transport.close()
                    return None
                return b"again"

            def connection_closed(self, transport: Any, op: int) -> None:
                seen.append((op, transport.total_bytes_sent, transport.total_bytes_received))

        with serving(Upper) as running:
            client = parallel.client("127.0.0.1", running.server.port)
            assert (client.host, client.ip) == ("127.0.0.1", "127.0.0.1")
            assert client.port == running.server.port
            parallel.register(transport=client, protocol=Talks)
            until(lambda: len(seen) == 4)
        assert seen == [b"HELLO", b"AGAIN", b"AGAIN", (parallel.IoOp.CLOSE, 15, 15)]

    def test_run_waits_for_a_client(self) -> None:
        seen: list[bytes] = []
        listener = socket.create_server(("127.0.0.1", 0))

        class Reads:
            def data_received(self, transport: Any, data: bytes) -> None:
                seen.append(data)

        def serve() -> None:
            with listener, listener.accept()[0] as sock:
                sock.sendall(b"quote")

        thread = threading.Thread(target=serve)
        thread.start()
        client = parallel.client("127.0.0.1", listener.getsockname()[1])
        parallel.register(client, Reads)
        parallel.run()
        thread.join()
        assert seen == [b"quote"]

    def refused(self) -> int:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port: int = sock.getsockname()[1]
            return port

    def test_nobody_listens(self) -> None:
        seen: list[Any] = []

        class Told:
            def connection_error(self, transport: Any, *what: Any) -> None:
                seen.append(what)

        class ToldShortly:
            def initial_connection_error(self, transport: Any, errcode: int) -> None:
                seen.append(errcode)

        class NotTold:
            pass

        import errno

        parallel.register(parallel.client("127.0.0.1", self.refused()), Told)
        parallel.run()
        parallel.register(parallel.client("127.0.0.1", self.refused()), ToldShortly)
        parallel.run()
        assert seen == [(parallel.IoOp.CONNECT, "connect", errno.ECONNREFUSED), errno.ECONNREFUSED]
        parallel.register(parallel.client("127.0.0.1", self.refused()), NotTold)
        with pytest.raises(ConnectionRefusedError):
            parallel.run()
        parallel.run()


class TestRegistration:
    def test_bad_arguments(self) -> None:
        for port in ("80", None, 1.5):
            with pytest.raises(TypeError, match="a port is an int"):
                parallel.server("127.0.0.1", port)  # type: ignore[arg-type]
        for port in (-1, 65536):
            with pytest.raises(ValueError, match="a port is 0-65535"):
                parallel.client("127.0.0.1", port)
        with pytest.raises(ValueError, match="a timeout needs seconds"):
            parallel.server("127.0.0.1", 0, timeout=-1)
        with pytest.raises(ValueError, match="a server needs a thread"):
            parallel.server("127.0.0.1", 0, threads=0)
        with pytest.raises(socket.gaierror):
            parallel.server("no.such.name.invalid", 0)
        with pytest.raises(ValueError, match="a server or client is expected"):
            parallel.register(object(), int)

    @pytest.mark.parametrize(
        ("attributes", "message"),
        [
            ({"data_received": 5}, "'data_received' is not a callable object"),
            ({"initial_bytes_to_send": 5}, "initial_bytes_to_send must be bytes, bytearray, str"),
            ({"next_bytes_to_send": 5}, "next_bytes_to_send must be bytes, bytearray, str"),
            ({"line_mode": True}, "protocol has 'line_mode' set, but no 'line_received'"),
        ],
    )
    def test_bad_protocols(self, attributes: dict[str, Any], message: str) -> None:
        server = parallel.server("127.0.0.1", 0)
        with pytest.raises(ValueError, match=message):
            parallel.register(server, type("Bad", (), attributes))
        with pytest.raises(ValueError, match="protocol must be a class, not 5"):
            parallel.register(server, 5)  # type: ignore[arg-type]
        with pytest.raises(parallel.AsyncRunCalledWithoutEventsError):
            parallel.run_once()

    def test_a_client_answers_no_requests(self) -> None:
        protocol = type("Pages", (), {"http11": True})
        with pytest.raises(ValueError, match="http11 is for servers"):
            parallel.register(parallel.client("127.0.0.1", 1), protocol)

    def test_registering_twice_and_a_port_in_use(self) -> None:
        with serving(parallel.Protocol) as running:
            with pytest.raises(ValueError, match="has a protocol already"):
                parallel.register(running.server, parallel.Protocol)
            second = parallel.server("127.0.0.1", running.server.port)
            with pytest.raises(OSError, match="in use"):
                parallel.register(second, parallel.Protocol)

    def test_run_once_returns_when_a_server_listens(self) -> None:
        server = parallel.server("127.0.0.1", 0)
        parallel.register(server, parallel.Protocol)
        parallel.run_once()
        socket.create_connection(("127.0.0.1", server.port)).close()
        server.shutdown()
        parallel.run()

    def test_several_threads(self) -> None:
        threads: set[Any] = set()

        class Protocol:
            def connection_made(self, transport: Any, data: bytes) -> bytes:
                threads.add((threading.get_ident(), parallel.thread_seq_id()))
                assert parallel.is_parallel_thread()
                return b"x"

            def data_received(self, transport: Any, data: bytes) -> None:
                pass

        with serving(Protocol, threads=2) as running:
            until(lambda: self.connects(running, threads))
        numbers = {number for _, number in threads}
        assert len(numbers) == len(threads) == min(2, os.cpu_count() or 1)
        assert parallel.thread_seq_id() is None

    @staticmethod
    def connects(running: Running, threads: set[Any]) -> bool:
        with running.connect() as sock:
            assert sock.recv(1) == b"x"
        return len(threads) == min(2, os.cpu_count() or 1)


def test_counters() -> None:
    transports: list[Any] = []

    class Echo:
        def connection_made(self, transport: Any, data: bytes) -> None:
            transports.append(transport)

        def data_received(self, transport: Any, data: bytes) -> bytes:
            assert transport.next_send_id() == transport.send_id + 1
            assert parallel.active_io_loops() >= 1
            assert 0 <= transport.elapsed() < 20_000_000
            return data * 2

    with serving(Echo) as running:
        server = running.server
        with running.connect() as sock:
            for _ in range(3):
                sock.sendall(b"12345")
                assert read_exactly(sock, 10) == b"1234512345"
            (transport,) = transports
            assert transport.parent is server
            assert (transport.ip, transport.port) == sock.getsockname()
            assert transport.num_bytes_just_received == 5
            assert transport.num_bytes_just_sent == 10
            assert (transport.recv_id, transport.send_id) == (3, 3)
            assert (transport.total_bytes_received, transport.total_bytes_sent) == (15, 30)
            assert transport.ioloops == 4
            assert transport.recvbuf_size > 0 and transport.sendbuf_size > 0
            assert transport.this_thread_id == transport.last_thread_id != threading.get_ident()
            assert bin(transport.thread_seq_id_bitmap).count("1") == 1
            stats = dict(parallel.socket_stats(server))
            assert stats["num_children"] == stats["clients_connected"] == 1
            assert stats["client_connected_count"] == stats["fd_accept_count"] == 1
            assert stats["total_bytes_sent"] == 30 and stats["total_bytes_received"] == 15
            assert dict(parallel.socket_stats(transport))["send_id"] == 3
            assert parallel.active_contexts() == 2
            with pytest.raises(AttributeError):
                server.num_children = 5
        until(lambda: server.retired_clients == 1)
        assert (server.num_children, server.clients_connected) == (0, 0)
        assert (server.total_bytes_sent, server.total_bytes_received) == (30, 15)
    assert parallel.active_contexts() == 0


def test_hogs_are_counted() -> None:
    class Chargen:
        initial_bytes_to_send = b"x" * 1000

        def send_complete(self, transport: Any, send_id: int) -> bytes:
            return b"x" * 1000

    with serving(Chargen) as running:
        with running.connect() as sock:
            read_exactly(sock, 100_000)
            assert dict(parallel.context_stats())["active_hogs"] == 1
        until(lambda: parallel.active_hogs() == 0)


def test_a_hog_leaves_others_their_turn() -> None:
    class Chargen:
        def data_received(self, transport: Any, data: bytes) -> bytes:
            return data

        def send_complete(self, transport: Any, send_id: int) -> bytes | None:
            return b"x" * 1000 if transport.num_bytes_just_sent == 1000 else None

    with serving(Chargen, threads=1) as running, running.connect() as hog:
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                hog.recv(1 << 20)

        hog.sendall(b"y" * 1000)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            for _ in range(20):
                with running.connect() as sock:
                    sock.sendall(b"short")
                    assert read_exactly(sock, 5) == b"short"
        finally:
            stop.set()
            reader.join()


def test_nothing_keeps_a_connection_alive() -> None:
    made: list[weakref.ref[Any]] = []

    class Echo:
        def connection_made(self, transport: Any, data: bytes) -> None:
            made.extend((weakref.ref(self), weakref.ref(transport)))

        def data_received(self, transport: Any, data: bytes) -> bytes:
            return data

    gc.collect()
    gc.disable()
    try:
        with serving(Echo) as running:
            for n in range(5):
                with running.connect() as sock:
                    sock.sendall(b"x")
                    assert read_exactly(sock, 1) == b"x"
                until(lambda: running.server.retired_clients == n + 1)  # noqa: B023
            # Not even for the garbage collector.
            until(lambda: not any(reference() for reference in made))
        assert len(made) == 10
    finally:
        gc.enable()


def test_no_descriptor_is_left() -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("what descriptors there are is read from /proc")

    class Echo:
        def data_received(self, transport: Any, data: bytes) -> bytes:
            return data

    def use() -> None:
        with serving(Echo) as running:
            for _ in range(20):
                with running.connect() as sock:
                    sock.sendall(b"x")
                    assert read_exactly(sock, 1) == b"x"
            reset(running.connect())

    use()
    before = len(os.listdir("/proc/self/fd"))
    use()
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_machine_and_memory() -> None:
    stats: dict[str, Any] = dict(parallel.sys_stats())
    assert stats["num_cpus"] == parallel.cpu_count() >= 1
    assert stats["page_size"] >= 4096 and stats["active_cpu_mask"] > 0
    memory = dict(parallel.memory_stats())
    assert 0 < memory["avail_physical"] < memory["total_physical"]
    assert 0 <= memory["load"] <= 100


def test_the_process_ends_with_a_server_and_connections() -> None:
    script = (
        "import socket, threading\n"
        "from hybridloop import parallel\n"
        "done = threading.Event()\n"
        "class Chargen:\n"
        "    initial_bytes_to_send = b'x' * 1000\n"
        "    def send_complete(self, transport, send_id):\n"
        "        done.set()\n"
        "        return b'x' * 1000\n"
        "server = parallel.server('127.0.0.1', 0)\n"
        "parallel.register(server, Chargen)\n"
        "sock = socket.create_connection(('127.0.0.1', server.port))\n"
        "assert done.wait(20)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
