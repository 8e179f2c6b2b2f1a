"""Servers: how they are registered, what they count, and what is left of them."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest

from hybridloop import parallel
from tests.support.descriptors import open_files
from tests.support.waiting import until

from .support import Running, read_exactly, reset, serving


class TestRegistration:
    def test_bad_arguments(self) -> None:
        for port in ("80", None, 1.5):
            with pytest.raises(TypeError, match="port must be an int"):
                parallel.server("127.0.0.1", port)  # type: ignore[arg-type]
        for port in (-1, 65536):
            with pytest.raises(ValueError, match="port must be 0-65535"):
                parallel.client("127.0.0.1", port)
        with pytest.raises(ValueError, match="timeout must be a number of seconds"):
            parallel.server("127.0.0.1", 0, timeout=-1)
        with pytest.raises(ValueError, match="threads must be at least 1"):
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
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            assert client.getpeername()[1] == server.port
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
            # It counts what it has sent when the peer may have it already.
            until(lambda: transport.total_bytes_sent == 30)
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
    before = open_files()
    use()
    until(lambda: open_files() <= before)


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
        "assert done.wait(60)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
