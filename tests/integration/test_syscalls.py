"""System calls per message in the steady state, as strace sees them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from .support import strace
from .support.loops import wait_until
from .support.sockets import connect, echo, receive_exactly
from .support.strace import ACCEPT, CONTROL, RECEIVE, SEND, TracedServer

MESSAGES = 200
WARM_UP = 20
MESSAGE = b"m" * 1024
HEADER = b"HEAD" * 4

improves_on_asyncio = pytest.mark.improves_on_asyncio


@pytest.fixture(scope="module", autouse=True)
def _strace() -> None:
    if reason := strace.unavailable():
        pytest.skip(reason)


def exchange(port: int, server: TracedServer, reply: bytes) -> strace.Trace:
    """Messages one after the other on one connection, counted after a warm-up."""
    with connect(port) as sock:
        for number in range(WARM_UP + MESSAGES):
            if number == WARM_UP:
                server.mark("start")
            sock.sendall(MESSAGE)
            assert receive_exactly(sock, len(reply)) == reply
        server.mark("end")
        return server.between("start", "end")


@pytest.mark.parametrize(
    "kind",
    [
        "protocol",
        pytest.param("protocol-two-parts", marks=improves_on_asyncio),
        "buffered",
        "streams",
        "task",
        pytest.param("task-two-parts", marks=improves_on_asyncio),
    ],
)
def test_one_receive_and_one_send_per_message(kind: str, tmp_path: Path) -> None:
    reply = HEADER + MESSAGE if kind.endswith("two-parts") else MESSAGE
    with TracedServer(tmp_path, "echo_server.py", kind) as server:
        trace = exchange(server.port, server, reply)
        assert len(trace.on_connections(RECEIVE)) == MESSAGES, trace.summary()
        assert len(trace.on_connections(SEND)) == MESSAGES, trace.summary()
        assert trace.count(CONTROL) == 0, trace.summary()
        server.quit()


@improves_on_asyncio
def test_sock_recv_and_sock_sendall_register_once(tmp_path: Path) -> None:
    with TracedServer(tmp_path, "echo_server.py", "sockets") as server:
        trace = exchange(server.port, server, MESSAGE)
        assert trace.count(CONTROL) == 0, trace.summary()
        assert len(trace.on_connections(SEND)) == MESSAGES, trace.summary()
        # One that finds nothing and one that finds the message.
        assert len(trace.on_connections(RECEIVE)) <= 2 * MESSAGES, trace.summary()
        server.quit()


def test_one_registration_per_connection(tmp_path: Path) -> None:
    count = 50
    with TracedServer(tmp_path, "echo_server.py", "protocol") as server:
        server.mark("start")
        sockets = [connect(server.port) for _ in range(count)]
        for _ in range(5):
            for sock in sockets:
                echo(sock, MESSAGE)
        server.mark("end")
        trace = server.between("start", "end")
        assert trace.count(CONTROL) <= count, trace.summary()
        assert trace.count(ACCEPT) <= 2 * count, trace.summary()
        for sock in sockets:
            sock.close()
        server.quit()


@improves_on_asyncio
def test_full_send_buffers_need_no_registration(tmp_path: Path) -> None:
    """asyncio adds and removes a writer each time that a socket takes less than it is given."""
    rounds, size = 5, 8 << 20
    with TracedServer(tmp_path, "echo_server.py", "flood") as server:

        def flood(sock: socket.socket) -> None:
            sock.sendall(b"x")
            wait_until(lambda: server.ask("buffered"), what="bytes that have to wait")
            receive_exactly(sock, size)

        with connect(server.port) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            flood(sock)
            server.mark("start")
            for _ in range(rounds):
                flood(sock)
            server.mark("end")
            trace = server.between("start", "end")
        assert len(trace.on_connections(SEND)) >= 2 * rounds, trace.summary()
        assert trace.count(CONTROL) == 0, trace.summary()
        server.quit()
