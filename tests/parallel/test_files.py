"""Files: written and read in parallel threads, and sent by connections."""

from __future__ import annotations

import os
import pathlib
import socket
import threading
from typing import Any

import pytest

from hybridloop import parallel
from tests.support.waiting import until

from .support import read_all, read_exactly, serving


def test_writing_and_reading(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    seen: list[Any] = []
    data = os.urandom(8192)
    file = parallel.open(path, "wb", size=len(data))
    parallel.write(file, data, callback=lambda f, count: seen.append((f is file, count)))
    parallel.run()
    file.close()
    assert seen == [(True, 8192)] and path.read_bytes() == data
    with parallel.open(path, "r") as file:
        parallel.read(file, lambda f, part: seen.append((f is file, part)), nbytes=100)
        parallel.read(file, lambda f, part: seen.append((f is file, part)))
        parallel.run()
    assert seen[1:] == [(True, data[:100]), (True, data[100:])]


def test_writes_to_one_file_keep_their_order(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    parts = [b"%d," % n for n in range(500)]
    with parallel.open(path, "wb") as file:
        for part in parts:
            parallel.submit_write_io(file, part)
        parallel.run()
    assert path.read_bytes() == b"".join(parts)


def test_a_pipe_takes_it_all(tmp_path: pathlib.Path) -> None:
    data = os.urandom(1 << 20)
    reading, writing = os.pipe()
    with open(reading, "rb") as source, open(writing, "wb", buffering=0) as target:
        handle = parallel.submit_write_io(target, bytearray(data))
        handle.add_done_callback(lambda _: target.close())
        read = parallel.submit_read_io(source)
        parallel.run()
    assert handle.result() == len(data) and read.result() == data


def test_whole_files(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    seen: list[Any] = []
    parallel.writefile(path, b"old and longer").result(60)
    parallel.writefile(path, b"content", callback=lambda *what: seen.append(what))
    parallel.run()
    parallel.readfile(path, callback=lambda *what: seen.append(what))
    parallel.run()
    assert seen == [(path, 7), (path, b"content")]


def test_errors(tmp_path: pathlib.Path) -> None:
    seen: list[Any] = []
    parallel.readfile(tmp_path / "missing", errback=seen.append)
    parallel.run()
    assert seen[0][0] is FileNotFoundError
    parallel.writefile(tmp_path, b"x")
    with pytest.raises(IsADirectoryError):
        parallel.run()
    parallel.writefile(tmp_path / "x", b"x", callback=lambda *what: what)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="non-None"):
        parallel.run()
    with pytest.raises(TypeError, match="a file is expected"):
        parallel.submit_write_io(5, b"x")
    with pytest.raises(TypeError, match="a file is expected"):
        parallel.submit_read_io(5)
    with pytest.raises(TypeError):
        parallel.writefile(tmp_path / "y", "text")
    with (tmp_path / "x").open("rb") as file:
        with pytest.raises(ValueError, match="a number of bytes is expected"):
            parallel.submit_read_io(file, nbytes=-1)
        # An error does not hold the next operation up.
        parallel.submit_write_io(file, b"x", errback=seen.append)
        parallel.submit_read_io(file, lambda _, data: seen.append(data))
        parallel.run()
    assert seen[1][1].args and seen[2] == b"x"


class Files:
    """What it sends depends on the first line."""

    line_mode = True
    path: pathlib.Path

    def line_received(self, transport: Any, line: bytes) -> Any:
        what = line.strip().decode()
        path = str(self.path)
        if what == "whole":
            transport.sendfile(b"<", path, ">")
        elif what == "bare":
            transport.sendfile(None, path, None)
        elif what == "part":
            transport.sendfile_ranged(None, path, None, 3, 5)
        elif what == "beyond":
            transport.ranged_sendfile(None, path, None, 3, 1 << 40)
        elif what == "missing":
            transport.sendfile(None, path + "missing", None)
        elif what == "and data":
            transport.sendfile(None, path, None)
            return b"data"
        elif what == "twice":
            transport.sendfile(None, path, None)
            transport.sendfile(None, path, None)
        elif what == "read":
            transport.readfile(path, nbytes=4)
        elif what == "read for callback":
            transport.readfile(path, lambda t, data: data[:2] if t.protocol is self else None)
        elif what == "write":
            transport.writefile(path + "new", "written", lambda t, count: b"%d" % count)
        elif what == "no read":
            transport.readfile(path + "missing", errback=self.errors.append)
        elif what == "close":
            transport.sendfile(None, path, None)
            transport.close()
        return None

    def send_complete(self, transport: Any, send_id: int) -> None:
        self.completed.append(send_id)

    def exception_handler(self, transport: Any, exc: Any) -> None:
        self.errors.append(exc)

    errors: list[Any] = []
    completed: list[int] = []


@pytest.fixture
def files(tmp_path: pathlib.Path) -> type[Files]:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))

    class OfThisTest(Files):
        errors: list[Any] = []
        completed: list[int] = []

    OfThisTest.path = path
    return OfThisTest


def test_sending(files: type[Files]) -> None:
    content = bytes(range(100))
    with serving(files) as running, running.connect() as sock:
        for what, expected in (
            (b"whole", b"<" + content + b">"),
            (b"bare", content),
            (b"part", content[3:8]),
            (b"read", content[:4]),
            (b"read for callback", content[:2]),
            (b"write", b"7"),
            (b"whole\nbare\npart", b"<" + content + b">" + content + content[3:8]),
        ):
            sock.sendall(what + b"\n")
            assert read_exactly(sock, len(expected)) == expected
        until(lambda: len(files.completed) == 9)
        sock.sendall(b"close\n")
        assert read_all(sock) == content
    assert files.completed == [*range(1, 11)]
    assert pathlib.Path(f"{files.path}new").read_text() == "written"
    assert running.server.total_bytes_sent == 102 + 100 + 5 + 4 + 2 + 1 + 207 + 100


def test_sending_what_is_not_there(files: type[Files]) -> None:
    kinds = {
        b"missing": FileNotFoundError,
        b"beyond": parallel.InvalidFileRangeError,
        b"and data": RuntimeError,
        b"twice": RuntimeError,
        b"no read": FileNotFoundError,
    }
    with serving(files) as running, running.connect() as sock:
        for count, what in enumerate(kinds, 1):
            sock.sendall(what + b"\n")
            until(lambda: len(files.errors) == count)  # noqa: B023
            # The connection goes on, and nothing of what failed is left.
            sock.sendall(b"part\n")
            assert read_exactly(sock, 5) == bytes(range(3, 8))
    assert [kind for kind, _, _ in files.errors] == [*kinds.values()]


def test_much_to_a_peer_that_reads_late(files: type[Files]) -> None:
    content = os.urandom(1 << 20) * 20
    files.path.write_bytes(content)
    with serving(files) as running, running.connect() as sock:
        sock.sendall(b"whole\npart\n")
        assert not files.completed
        expected = b"<" + content + b">" + content[3:8]
        assert read_exactly_fast(sock, len(expected)) == expected


def read_exactly_fast(sock: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = sock.recv_into(view)
        assert got
        view = view[got:]
    return bytes(data)


def test_the_peer_ends_while_a_file_is_sent(files: type[Files]) -> None:
    files.path.write_bytes(bytes(64 << 20))
    ended = threading.Event()
    files.connection_lost = lambda *_: ended.set()  # type: ignore[attr-defined]
    with serving(files) as running:
        with running.connect() as sock:
            sock.sendall(b"whole\n")
            assert sock.recv(1) == b"<"
        assert ended.wait(60)
    assert files.errors == []
