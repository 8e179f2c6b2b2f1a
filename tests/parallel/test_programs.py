"""T1.4: servers written as in PyParallel's README, as programs of their own."""

from __future__ import annotations

import contextlib
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from .support import read_all, read_exactly

PROGRAMS = pathlib.Path(__file__).parent / "programs"


@contextlib.contextmanager
def program(name: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with subprocess.Popen(
        [sys.executable, str(PROGRAMS / name)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, int(line)
        finally:
            process.kill()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def test_hello() -> None:
    with program("hello.py") as (_, port), connect(port) as sock:
        greeting = b"Hello, World!\r\n"
        assert read_exactly(sock, len(greeting)) == greeting
        sock.sendall(b"something")
        answer = b"You said: something\r\n"
        assert read_exactly(sock, len(answer)) == answer


def test_echo_and_interrupt() -> None:
    with program("echo.py") as (process, port):
        data = bytes(range(256)) * 4096
        with connect(port) as sock:
            sender = threading.Thread(target=sock.sendall, args=(data,))
            sender.start()
            assert read_exactly(sock, len(data)) == data
            sender.join()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=300)
            assert (out, err, process.returncode) == ("shut down\n", "", 0)
            assert sock.recv(1) == b""


def test_chargen() -> None:
    with program("chargen.py") as (_, port), connect(port) as sock, sock.makefile("rb") as file:
        lines = [file.readline() for _ in range(200)]
    for n, line in enumerate(lines):
        assert len(line) == 74 and line.endswith(b"\r\n")
        assert line[0] == ord(" ") + n % 95
        assert line[1] == ord(" ") + (n + 1) % 95


def test_qotd() -> None:
    with program("qotd.py") as (_, port):
        for _ in range(3):
            with connect(port) as sock:
                assert read_all(sock) == b"Time flies like an arrow.\r\n"


def test_random_over_http() -> None:
    pytest.importorskip("h11", reason="http11 needs h11")
    with program("random_sums.py") as (_, port):
        for _ in range(5):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/random", timeout=60) as answer:
                assert answer.status == 200
                assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
                found = re.fullmatch(
                    r"The sum of the items in slice \[(\d+):(\d+)\] is (\d+)",
                    answer.read().decode(),
                )
            assert found is not None
            assert int(found[2]) - int(found[1]) == 10 and int(found[3]) <= 990
