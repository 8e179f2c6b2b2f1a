"""`line_mode` and `lines_mode`: callbacks that get lines."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from .support import read_all, read_exactly, serving


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

    @pytest.mark.parametrize("end", [b"", b"\n"])
    def test_a_line_that_is_too_long(self, end: bytes) -> None:
        class Short:
            line_mode = True
            max_line_length = 10

            def line_received(self, transport: Any, line: bytes) -> bytes:
                return line

        with serving(Short, errors=1) as running, running.connect() as sock:
            sock.sendall(b"short\n")
            assert read_exactly(sock, 6) == b"short\n"
            sock.sendall(b"0123456789\n")
            assert read_exactly(sock, 11) == b"0123456789\n"
            sock.sendall(b"x" * 11 + end)
            assert read_all(sock) == b""
        assert "longer than 10 bytes" in str(running.errors[0])

    def test_one_of_several_lines_is_too_long(self) -> None:
        """Those before it are passed."""

        class Short:
            lines_mode = True
            max_line_length = 3

            def lines_received(self, transport: Any, lines: list[bytes]) -> bytes:
                return b"|".join(lines)

        with serving(Short, errors=1) as running, running.connect() as sock:
            sock.sendall(b"a\n123\n1234\nb\n")
            assert read_all(sock) == b"a\n|123\n"
        assert "longer than 3 bytes" in str(running.errors[0])

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
