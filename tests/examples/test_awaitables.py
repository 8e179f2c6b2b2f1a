"""The examples of async functions in C and Rust."""

import shutil
import socket
import threading
from pathlib import Path

import pytest

from tests.integration.support.http import get, post
from tests.integration.support.processes import ERROR_MARKS
from tests.integration.support.uvicorn import UvicornProcess

ROOT = Path(__file__).parents[2]
REQUESTS = 100_000
THREADS = 4
PER_CONNECTION = 20
"""How many requests come on a connection, before one that is cut off."""

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@needs_cc
def test_a_library_with_a_thread(run_example):
    assert run_example("examples.awaitables.sensor") == [
        "Sensor.read(self, /): Measure the temperature.",
        "one: 20.0",
        "several: 20.1 20.2 20.3 20.4 20.5",
        "too slow",
        "afterwards: 20.1",
    ]


@pytest.mark.skipif(shutil.which("cargo") is None, reason="there is no Rust compiler")
@pytest.mark.timeout(900)
def test_rust_and_tokio(run_example):
    # Built beside the crates of tests/awaitables, which have dependencies in common.
    target = str(ROOT / "target" / "extensions")
    lines = run_example("examples.awaitables.rust_tokio", timeout=880, CARGO_TARGET_DIR=target)
    assert lines == [
        "one: HELLO",
        "several: A B C",
        "awaited: FROM PYTHON",
        "refused: the server does not answer",
        "cancelled: True",
    ]


@pytest.fixture(scope="module")
def server():
    options = ["--app-dir", str(ROOT), "--interface", "asgi3", "--lifespan", "off"]
    with UvicornProcess("examples.awaitables.asgi_app:app", options) as server:
        yield server


@needs_cc
def test_an_application(server):
    with server.connect() as connection:
        assert connection.request(get("/")).body == b"Hello from C!\n"
        for body in (b"", b"x", b"words " * 100_000):
            response = connection.request(post("/echo", body))
            assert response.status == 200
            assert response.body == body
            assert response.headers["content-length"] == str(len(body))


def requests(port, count, failures):
    """Send that many requests in all, some of which are cut off."""
    answer = b"\r\n\r\nHello from C!\n"
    whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * (PER_CONNECTION * 9 // 10)
    cut_off = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nno more"
    try:
        for number in range(count // PER_CONNECTION):
            with socket.create_connection(("127.0.0.1", port), 60) as connection:
                connection.sendall(whole)
                received = b""
                while received.count(answer) < PER_CONNECTION * 9 // 10:
                    data = connection.recv(65536)
                    assert data, received
                    received += data
                connection.sendall(cut_off)
            # Two of them: one within its body, and one before its answer.
            with socket.create_connection(("127.0.0.1", port), 60) as connection:
                connection.sendall(whole[: len(whole) // 2] if number % 2 else cut_off)
    except BaseException as error:
        failures.append(error)


@needs_cc
@pytest.mark.timeout(600)
def test_many_requests_some_cut_off(server):
    """(T2.22) A tenth of them."""
    failures = []
    share = REQUESTS // THREADS
    threads = [
        threading.Thread(target=requests, args=(server.port, share, failures))
        for _ in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    # It goes on, and has nothing to complain of.
    assert server.request(get("/", close=True)).body == b"Hello from C!\n"
    assert not any(mark in server.log for mark in ERROR_MARKS), server.log
