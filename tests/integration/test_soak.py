"""Memory stays where it is after warm-up, over many requests and many connections.

The bounds leave room for the allocator, not for a leak: 2 MiB are 10 bytes for each of 200,000
requests, and less than any object for each of 20,000 connections.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .support.loops import wait_until
from .support.processes import ControlledServer
from .support.sockets import connect, receive_exactly, reset

REQUESTS = 200_000
CONNECTIONS = 20_000
PARALLEL = 50
GROWTH = 2 << 20
OBJECTS = 50
ROUNDS = 3

MESSAGE = b"m" * 512


def request_in_parallel(port: int, count: int) -> None:
    sockets = [connect(port) for _ in range(PARALLEL)]
    for _ in range(count // PARALLEL):
        for sock in sockets:
            sock.sendall(MESSAGE)
        for sock in sockets:
            assert len(receive_exactly(sock, len(MESSAGE))) == len(MESSAGE)
    for sock in sockets:
        reset(sock)


def connect_and_leave(port: int, count: int) -> None:
    """One request on each connection; mostly resets, which leave nothing in TIME_WAIT."""
    for _ in range(count // PARALLEL):
        sockets = [connect(port) for _ in range(PARALLEL)]
        for sock in sockets:
            sock.sendall(MESSAGE)
        for number, sock in enumerate(sockets):
            receive_exactly(sock, len(MESSAGE))
            if number % 5:
                reset(sock)
            else:
                sock.close()


def settled_stats(server: ControlledServer, fds: int | None = None) -> dict[str, int]:
    """The server's figures once the connections are gone and the count of objects stands still."""
    seen: list[dict[str, Any]] = []

    def settled() -> bool:
        seen.append(server.ask("stats"))
        last = seen[-1]
        return (fds is None or last["fds"] == fds) and [each["objects"] for each in seen[-3:]] == [
            last["objects"]
        ] * 3

    wait_until(settled, what="settled figures of the server")
    return seen[-1]


def check_growth(server: ControlledServer, work: Callable[[], None]) -> None:
    """Objects are counted; a leak of memory grows each time, the allocator's room does not."""
    before = settled_stats(server)
    for _ in range(ROUNDS):
        work()
        after = settled_stats(server, before["fds"])
        assert after["objects"] - before["objects"] <= OBJECTS, (before, after)
        if after["rss"] - before["rss"] <= GROWTH:
            return
        before = after
    raise AssertionError(f"memory grew by more than {GROWTH} bytes {ROUNDS} times")


@pytest.mark.parametrize("kind", ["protocol", "task"])
def test_requests(kind: str) -> None:
    count = REQUESTS if kind == "protocol" else REQUESTS // 4
    with ControlledServer("echo_server.py", kind) as server:
        request_in_parallel(server.port, count // 10)
        check_growth(server, lambda: request_in_parallel(server.port, count))
        assert server.ask("errors") == []
        server.quit()


@pytest.mark.parametrize("kind", ["protocol", "streams", "sockets"])
def test_connections(kind: str) -> None:
    count = CONNECTIONS if kind == "protocol" else CONNECTIONS // 4
    with ControlledServer("echo_server.py", kind) as server:
        connect_and_leave(server.port, count // 5)
        check_growth(server, lambda: connect_and_leave(server.port, count))
        assert server.ask("errors") == []
        server.quit()
