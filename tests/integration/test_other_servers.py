"""hypercorn, gunicorn and granian, which bring their own ways to choose a loop."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
from pathlib import Path

import pytest
from websockets.sync.client import connect

from .support.http import RawConnection, get, post
from .support.loops import loop_class_path, run_stock, wait_until
from .support.processes import ServerProcess

BODY = os.urandom(1 << 20)
CONNECTIONS = 200


def check_http(port: int) -> None:
    with RawConnection(port) as connection:
        assert connection.request(get("/hello/first")).body == b"hello first"
        described = json.loads(connection.request(get("/describe")).body)
        assert described["loop"] == loop_class_path()
        answer = json.loads(connection.request(post("/sha256", BODY)).body)
        assert answer == {"sha256": hashlib.sha256(BODY).hexdigest(), "length": len(BODY)}
        stream = connection.request(get("/stream/100")).body
        assert stream == b"".join((b"%08d" % number) * 512 for number in range(100))


def check_websocket(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/echo", open_timeout=60, max_size=None) as websocket:
        for message in ["text", b"binary", BODY]:
            websocket.send(message)
            assert websocket.recv(timeout=60) == message


def check_many(port: int) -> None:
    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for index in range(5):
            writer.write(get(f"/hello/{number}-{index}"))
            await reader.readuntil(b"\r\n\r\n")
            body = f"hello {number}-{index}".encode()
            assert await reader.readexactly(len(body)) == body
        writer.close()
        await writer.wait_closed()

    async def client() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(one(number))

    run_stock(client())


def test_hypercorn() -> None:
    with ServerProcess(["hypercorn_server.py"]) as server:
        port = server.wait_for_port(r"^port (\d+)$")
        server.wait_for_line("application: startup")
        check_http(port)
        check_websocket(port)
        check_many(port)
        assert server.stop() == 0, server.log
        assert "application: shutdown" in server.log
        server.assert_clean_log()


def test_gunicorn(tmp_path: Path) -> None:
    """gunicorn's workers are forked from a process that has imported hybridloop, or has not."""
    pytest.importorskip("uvicorn_worker", reason="uvicorn's worker class for gunicorn is not here")
    arguments = ["--worker-class", "gunicorn_worker.Worker", "--workers", "2"]
    # A busy machine may keep connections idle, and workers from their answers.
    arguments += ["--keep-alive", "300", "--timeout", "300"]
    for preload in ([], ["--preload"]):
        command = ["-m", "gunicorn", *arguments, *preload, "--bind", "127.0.0.1:0", "asgi_app:app"]
        # Where it puts a socket of its own.
        with ServerProcess(command, env={"HOME": str(tmp_path)}) as server:
            port = server.wait_for_port(r"Listening at: http://127\.0\.0\.1:(\d+)")
            # Both of them: a worker that has not begun is ended by the signal itself.
            wait_until(lambda: server.log.count("application: startup") == 2, what="two workers")
            check_http(port)
            check_websocket(port)
            check_many(port)
            assert server.stop(signal.SIGTERM) == 0, server.log
            assert "application: shutdown" in server.log
            server.assert_clean_log()


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5.0).close()
    except ConnectionRefusedError:
        return False
    return True


def test_granian() -> None:
    """granian's own threads accept and parse; its workers run the application on our loop."""
    pytest.importorskip("granian", reason="granian has no wheel for this Python")
    # Nobody else gets the port until granian listens, which shares ports as we do here.
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    with probe, ServerProcess(["granian_server.py", str(port)]) as server:
        server.wait_for_line("application: startup")
        wait_until(lambda: accepts(port), what="a listening granian")
        check_http(port)
        check_websocket(port)
        check_many(port)
        assert server.stop(signal.SIGTERM) == 0, server.log
        assert "application: shutdown" in server.log
        server.assert_clean_log()
