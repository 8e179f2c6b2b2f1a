"""No descriptor is lost, whatever peers do, and none left means wait, not stop."""

from __future__ import annotations

import select
import socket
import time

import pytest

from .support.loops import wait_until
from .support.processes import ControlledServer
from .support.sockets import connect, echo, receive_exactly, reset

CONNECTIONS = {"protocol": 10_000, "buffered": 2_500, "streams": 2_500, "sockets": 2_500}
WAVE = 250
ACCEPT_RETRY_DELAY = 1.0


@pytest.mark.parametrize("kind", CONNECTIONS)
def test_descriptors_return_to_start(kind: str) -> None:
    """Thousands of connections in waves, half of them reset by the peer."""
    message = b"m" * 1024
    with ControlledServer("echo_server.py", kind) as server:
        for sock in [connect(server.port) for _ in range(10)]:
            echo(sock, message)
            sock.close()
        before = wait_until_settled(server)
        for wave in range(CONNECTIONS[kind] // WAVE):
            sockets = [connect(server.port) for _ in range(WAVE)]
            if wave % 2:
                for sock in sockets:
                    sock.sendall(message)
                for sock in sockets:
                    assert receive_exactly(sock, len(message)) == message
            for number, sock in enumerate(sockets):
                leave(sock, number, message)
        wait_until(
            lambda: server.ask("stats")["fds"] <= before, what=f"{before} descriptors in the server"
        )
        with connect(server.port) as sock:
            echo(sock, message)
        assert server.ask("errors") == []
        server.quit()


def leave(sock: socket.socket, number: int, message: bytes) -> None:
    """End a connection: every other one by a reset, some with bytes on their way."""
    if number % 4 >= 2:
        sock.sendall(message)
    if number % 2:
        reset(sock)
    else:
        sock.close()


def wait_until_settled(server: ControlledServer) -> int:
    """The number of descriptors once it is the same twice in a row."""
    counts: list[int] = []

    def same_twice() -> bool:
        counts.append(server.ask("stats")["fds"])
        return counts[-2:-1] == counts[-1:]

    wait_until(same_twice, what="a stable number of descriptors")
    return counts[-1]


@pytest.mark.parametrize("kind", ["protocol", "streams"])
def test_reset_with_a_full_write_buffer(kind: str) -> None:
    """The peer sends much, reads nothing, and resets when the server can't write any more."""
    with ControlledServer("echo_server.py", kind) as server:
        before = wait_until_settled(server)
        for _ in range(10):
            sock = connect(server.port)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            sock.setblocking(False)
            sent = 0
            while sent < 8 << 20 and select.select([], [sock], [], 0.1)[1]:
                sent += sock.send(b"x" * 65536)
            reset(sock)
        wait_until(
            lambda: server.ask("stats")["fds"] <= before, what=f"{before} descriptors in the server"
        )
        assert server.ask("errors") == []
        server.quit()


def exhaust(server: ControlledServer, count: int) -> tuple[list[socket.socket], float]:
    """Open `count` connections, more than the server may hold, and wait for its first error."""
    started = time.monotonic()
    sockets = [connect(server.port) for _ in range(count)]
    for sock in sockets:
        sock.sendall(b"message")
    wait_until(lambda: server.ask("errors"), what="an error about descriptors")
    return sockets, started


def answered(sockets: list[socket.socket]) -> list[socket.socket]:
    return select.select(sockets, [], [], 0)[0]


def test_accepting_goes_on_after_descriptors_ran_out() -> None:
    spare, count = 20, 60
    with ControlledServer("echo_server.py", "protocol") as server:
        server.ask(f"limit_fds {spare}")
        sockets, _started = exhaust(server, count)
        wait_until(lambda: len(answered(sockets)) >= spare // 2, what="answers on some sockets")
        served = answered(sockets)
        assert len(served) <= spare
        # Connections that are already open are served all the while.
        for sock in served:
            receive_exactly(sock, len(b"message"))
            echo(sock, b"still served")
        for sock in served:
            sock.close()
        rest = [sock for sock in sockets if sock not in served]
        while rest:
            ready = wait_until(lambda: answered(rest), what="more answers")
            for sock in ready:
                receive_exactly(sock, len(b"message"))
                sock.close()
                rest.remove(sock)
        with connect(server.port) as sock:
            echo(sock, b"a new one")
        assert all("24, 'Too many open files'" in error for error in server.ask("errors"))
        server.quit()


@pytest.mark.improves_on_asyncio
def test_lack_of_descriptors_is_told_once_per_attempt() -> None:
    """asyncio retries in the same iteration, and reports as often as the backlog is long."""
    with ControlledServer("echo_server.py", "protocol") as server:
        server.ask("limit_fds 10")
        sockets, started = exhaust(server, 15)
        # Connections that come while accepting is suspended are no reason to try earlier.
        for _ in range(20):
            sockets.append(connect(server.port))
            server.ask("errors")
        wait_until(lambda: time.monotonic() > started + 2.5 * ACCEPT_RETRY_DELAY)
        errors = server.ask("errors")
        attempts = 1 + (time.monotonic() - started) / ACCEPT_RETRY_DELAY
        assert 1 <= len(errors) <= attempts
        for sock in sockets:
            sock.close()
        server.quit()


def test_reset_before_accept() -> None:
    """A peer that resets while it waits to be accepted is passed over in silence."""
    with ControlledServer("echo_server.py", "protocol") as server:
        for _ in range(300):
            reset(connect(server.port))
        with connect(server.port) as sock:
            echo(sock, b"served")
        assert server.ask("errors") == []
        server.quit()
