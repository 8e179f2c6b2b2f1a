"""uvicorn starts and ends on the loop under test as it does on asyncio."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from .support.http import RawConnection, get
from .support.loops import LOOP_FACTORY_PATH, wait_until
from .support.processes import ServerProcess, run_script
from .support.uvicorn import UvicornProcess

# uvicorn raises the signal anew after its own shutdown, so SIGTERM also shows as its cause.
EXPECTED_CODES: dict[signal.Signals, Sequence[int]] = {
    signal.SIGTERM: (0, -signal.SIGTERM),
    signal.SIGINT: (0, 130, -signal.SIGINT),
}


@pytest.mark.parametrize("number", list(EXPECTED_CODES), ids=lambda number: number.name)
def test_idle_server_ends_on_signal(number: signal.Signals) -> None:
    with UvicornProcess() as server, server.connect() as idle:
        assert idle.request(get("/hello/first")).body == b"hello first"
        assert server.stop(number) in EXPECTED_CODES[number], server.log
        assert idle.at_eof()
        server.assert_clean_log()
        order = ["application: startup", "application: shutdown", "Finished server process"]
        positions = [server.log.index(line) for line in order]
        assert positions == sorted(positions)


@pytest.mark.parametrize("number", list(EXPECTED_CODES), ids=lambda number: number.name)
def test_running_request_is_finished_after_the_signal(
    number: signal.Signals, tmp_path: Path
) -> None:
    released = tmp_path / "released"
    with UvicornProcess() as server, server.connect() as connection:
        connection.send(get(f"/wait_file?path={released}"))
        connection.wait_for_body_bytes(len(b"waiting "))
        server.send_signal(number)
        server.wait_for_line("Waiting for connections to close")
        wait_until(lambda: refuses_connections(server.port), what="refused connections")
        released.touch()
        assert connection.response().body == b"waiting done"
        assert server.wait() in EXPECTED_CODES[number], server.log
        assert "application: shutdown" in server.log
        server.assert_clean_log()


def refuses_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5.0).close()
    except ConnectionRefusedError:
        return True
    return False


def test_failed_lifespan_startup() -> None:
    arguments = ["-m", "uvicorn", "asgi_app:app", "--loop", LOOP_FACTORY_PATH, "--port", "0"]
    result = run_script(*arguments, env={"FAIL_STARTUP": "1"})
    assert result.returncode == 3, result.stderr
    assert "Application startup failed. Exiting." in result.stderr
    assert "Traceback" not in result.stderr


def test_inherited_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        fd = str(listener.fileno())
        options = ["--loop", LOOP_FACTORY_PATH, "--fd", fd, "--no-use-colors"]
        arguments = ["-m", "uvicorn", "asgi_app:app", *options]
        with ServerProcess(arguments, pass_fds=[listener.fileno()]) as server:
            server.wait_for_line("Uvicorn running on socket")
            with RawConnection(port) as connection:
                assert connection.request(get("/hello/fd", close=True)).body == b"hello fd"
            assert server.stop() in EXPECTED_CODES[signal.SIGTERM], server.log
            server.assert_clean_log()


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "uvicorn.sock"
    options = ["--loop", LOOP_FACTORY_PATH, "--uds", str(path), "--no-use-colors"]
    with ServerProcess(["-m", "uvicorn", "asgi_app:app", *options]) as server:
        server.wait_for_line("Uvicorn running on unix socket")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60.0)
            client.connect(str(path))
            client.sendall(get("/hello/unix", close=True))
            with client.makefile("rb") as stream:
                assert stream.read().endswith(b"\r\n\r\nhello unix")
        assert server.stop() in EXPECTED_CODES[signal.SIGTERM], server.log
        server.assert_clean_log()


def test_two_workers() -> None:
    """The loop is made in spawned processes that share one listening socket."""
    with UvicornProcess(options=["--workers", "2"]) as server:
        wait_until(lambda: server.log.count("Application startup complete") == 2, what="workers")
        for number in range(20):
            body = server.request(get(f"/hello/{number}", close=True)).body
            assert body == b"hello %d" % number
        assert server.stop() in EXPECTED_CODES[signal.SIGTERM], server.log
        server.assert_clean_log()


def test_limit_of_requests_ends_the_server() -> None:
    with UvicornProcess(options=["--limit-max-requests", "3"]) as server:
        for number in range(3):
            assert server.request(get("/hello/n", close=True)).body == b"hello n", number
        assert server.wait() == 0, server.log
        assert "Traceback" not in server.log
