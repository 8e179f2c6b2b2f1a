"""Connections, which protocol callbacks get as their argument `transport`."""

from __future__ import annotations

import enum
import socket
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os


class InvalidFileRangeError(OSError):
    """A range of bytes is not within the file."""


class IoOp(enum.IntEnum):
    """The operation of a connection."""

    CONNECT = 1
    ACCEPT = 2
    RECV = 3
    SEND = 4
    DISCONNECT = 5
    CLOSE = 6
    SENDFILE = 7
    SHUTDOWN = 8
    READFILE = 15
    WRITEFILE = 16


# Its name, the function that does it, the callback and the errback.
FileOperation = tuple[str, Callable[[], Any], Any, Any]


class FileToSend:
    """A file scheduled by `sendfile()`."""

    __slots__ = ("after", "before", "count", "file", "file_size", "offset", "path")

    def __init__(
        self,
        before: Any,
        path: str | os.PathLike[str],
        after: Any,
        offset: int = 0,
        count: int | None = None,
    ) -> None:
        self.before = to_bytes(before) if before is not None else None
        self.after = to_bytes(after) if after is not None else None
        self.path = path
        self.offset = offset
        if offset < 0 or (count is not None and count < 0):
            raise InvalidFileRangeError(f"no range of {path!r}: offset {offset}, {count} bytes")
        # Closed after sending.
        self.file: IO[bytes] = open(path, "rb")  # noqa: SIM115
        try:
            size = self.file.seek(0, 2)
            if offset + (count or 0) > size:
                raise InvalidFileRangeError(
                    f"not within {path!r} of {size} bytes: offset {offset}, {count} bytes"
                )
        except BaseException:
            self.file.close()
            raise
        self.file_size = size
        self.count = size - offset if count is None else count


def to_bytes(data: Any) -> bytes:
    """Convert a result to bytes: `bytes`, `bytearray`, or `str` as UTF-8."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"bytes, bytearray or str are expected, not {type(data).__name__}: {data!r}")


class ResponseEncoder:
    """Encodes the result of a callback, and handles a callback that fails after it was called."""

    def __call__(self, result: Any) -> Any:
        """The bytes to send for a result, or the `FileToSend`."""
        raise NotImplementedError

    def failed(self, name: str, error: BaseException) -> None:
        """There is no result."""
        raise NotImplementedError


class Transport:
    """The common attributes of connections, clients and servers."""

    def __init__(self) -> None:
        self.host = ""
        self.ip = ""
        self.port = 0
        self.sock_family = int(socket.AF_INET)
        self.sock_type = int(socket.SOCK_STREAM)
        self.sock_proto = int(socket.IPPROTO_TCP)
        # Seconds without activity after which a connection is closed; 0 is no limit.
        self.sock_timeout = 0.0
        self.recvbuf_size = 0
        self.sendbuf_size = 0

    def shutdown(self) -> None:
        """Shut down once everything is sent."""
        raise NotImplementedError


class Connection(Transport):
    """One connection: the argument `transport` of the protocol's callbacks."""

    def __init__(self, parent: Transport | None) -> None:
        super().__init__()
        self.parent = parent
        # The numbers of the last data that was sent and received.
        self.send_id = 0
        self.recv_id = 0
        self.num_bytes_just_sent = 0
        self.num_bytes_just_received = 0
        self.total_bytes_sent = 0
        self.total_bytes_received = 0
        # The number of callbacks, and the threads they ran in.
        self.ioloops = 0
        self.last_thread_id = 0
        self.this_thread_id = 0
        self.thread_seq_id_bitmap = 0
        self._begin = time.perf_counter_ns()
        # The protocol instance of this connection.
        self.protocol: Any = None
        self.peer: Any = None
        # The HTTP request that is being answered; see `http11`.
        self.http_method = ""
        self.http_path = ""
        self.http_query = ""
        self.http_headers: dict[str, str] = {}
        self.http_header: dict[str, Any] = {}
        self.http_status = 200
        self.http_response_headers: dict[str, str] = {}
        # While it is open: makes the event loop continue with the connection.
        self._wake: Callable[[], None] | None = None
        self._closing = False
        self._file: FileToSend | None = None
        self._operation: FileOperation | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.ip}:{self.port}>"

    def elapsed(self) -> int:
        """Microseconds since the data that is being handled was received."""
        return (time.perf_counter_ns() - self._begin) // 1000

    def next_send_id(self) -> int:
        """The number of the next data to be sent."""
        return self.send_id + 1

    def close(self) -> None:
        """Close the connection once all results of callbacks are sent."""
        if not self._closing:
            self._closing = True
            if self._wake is not None:
                self._wake()

    def shutdown(self) -> None:
        """Shut down the server of the connection; close the connection of a client."""
        if self.parent is None:
            self.close()
        else:
            self.parent.shutdown()

    def shutdown_server(self) -> None:
        """Shut down the server of the connection, and close all its connections."""
        if self.parent is not None:
            self.parent.shutdown()

    def sendfile(self, before: Any, path: str | os.PathLike[str], after: Any) -> None:
        """Send `before`, a file and `after` once the callback returns `None`.

        `before` and `after` are bytes, strings or `None`. The operating system sends the file
        without a copy. Raises the exceptions of `open()`, and `RuntimeError` if the callback has
        scheduled a file operation already.
        """
        self._check_free()
        self._file = FileToSend(before, path, after)

    def sendfile_ranged(
        self,
        before: Any,
        path: str | os.PathLike[str],
        after: Any,
        offset: int,
        num_bytes_to_send: int,
    ) -> None:
        """Like `sendfile()`, for a range of the file; `InvalidFileRangeError` for a wrong range."""
        self._check_free()
        self._file = FileToSend(before, path, after, offset, num_bytes_to_send)

    ranged_sendfile = sendfile_ranged

    def readfile(
        self,
        path: str | os.PathLike[str],
        callback: Callable[[Connection, bytes], Any] | None = None,
        nbytes: int = -1,
        errback: Callable[[Any], None] | None = None,
    ) -> None:
        """Read a file once the callback returns `None`, then call `callback(transport, data)`.

        Its result is sent; without a callback, the data is sent. Errors are passed to `errback` as
        a triple, or to the protocol's `exception_handler`. No other callback runs meanwhile.
        """
        self._check_free()

        def read() -> bytes:
            with open(path, "rb") as file:
                return file.read(nbytes)

        self._operation = "readfile", read, callback or (lambda _, data: data), errback

    def writefile(
        self,
        path: str | os.PathLike[str],
        data: Any,
        callback: Callable[[Connection, int], Any] | None = None,
        errback: Callable[[Any], None] | None = None,
    ) -> None:
        """Write a file once the callback returns `None`, then call `callback(transport, count)`.

        Its result is sent. Otherwise like `readfile()`.
        """
        self._check_free()
        content = to_bytes(data)

        def write() -> int:
            with open(path, "wb") as file:
                return file.write(content)

        self._operation = "writefile", write, callback, errback

    def _is_free(self) -> bool:
        return self._file is None and self._operation is None

    def _check_free(self) -> None:
        if not self._is_free():
            raise RuntimeError("this callback has scheduled a file operation already")

    def _take_scheduled(self) -> tuple[FileToSend | None, FileOperation | None]:
        scheduled = self._file, self._operation
        self._file = self._operation = None
        return scheduled
