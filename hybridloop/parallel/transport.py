"""What the callbacks of a protocol are given: the connection they are called for."""

from __future__ import annotations

import enum
import socket
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os


class InvalidFileRangeError(OSError):
    """A range of bytes is not within its file."""


class IoOp(enum.IntEnum):
    """What a connection was doing."""

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


# The name, what is done, and the callback and errback.
FileOperation = tuple[str, Callable[[], Any], Any, Any]


class FileToSend:
    """What `sendfile()` has scheduled."""

    __slots__ = ("after", "before", "count", "file", "offset", "path", "whole")

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
            raise InvalidFileRangeError(f"{count} bytes from {offset} on are no range of {path!r}")
        # Whoever sends it closes it.
        self.file: IO[bytes] = open(path, "rb")  # noqa: SIM115
        try:
            size = self.file.seek(0, 2)
            if offset + (count or 0) > size:
                raise InvalidFileRangeError(
                    f"{count} bytes from {offset} on are not within {path!r}, which has {size}"
                )
        except BaseException:
            self.file.close()
            raise
        self.whole = size
        self.count = size - offset if count is None else count


def to_bytes(data: Any) -> bytes:
    """What can be sent: `bytes`, `bytearray`, `str` (as UTF-8)."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise TypeError(
        f"what is sent has to be bytes, bytearray or str, not {type(data).__name__}: {data!r}"
    )


class ResponseEncoder:
    """Encodes the result of a callback, and handles a callback that fails after it was called."""

    def __call__(self, result: Any) -> Any:
        """The bytes to send for a result, or the `FileToSend`."""
        raise NotImplementedError

    def failed(self, name: str, error: BaseException) -> None:
        """There is no result."""
        raise NotImplementedError


class Transport:
    """What a connection, a client and a server have in common: addresses and counters.

    The counters are there to be read.
    """

    def __init__(self) -> None:
        self.host = ""
        self.ip = ""
        self.port = 0
        self.sock_family = int(socket.AF_INET)
        self.sock_type = int(socket.SOCK_STREAM)
        self.sock_proto = int(socket.IPPROTO_TCP)
        # Seconds without input or output after which a connection ends; 0 is never.
        self.sock_timeout = 0.0
        self.recvbuf_size = 0
        self.sendbuf_size = 0

    def shutdown(self) -> None:
        """End it once everything is sent."""
        raise NotImplementedError


class Connection(Transport):
    """One connection: what the protocol's callbacks get as `transport`."""

    def __init__(self, parent: Transport | None) -> None:
        super().__init__()
        self.parent = parent
        # Numbers of what was sent last and what came last.
        self.send_id = 0
        self.recv_id = 0
        self.num_bytes_just_sent = 0
        self.num_bytes_just_received = 0
        self.total_bytes_sent = 0
        self.total_bytes_received = 0
        # How often a callback was called, and where.
        self.ioloops = 0
        self.last_thread_id = 0
        self.this_thread_id = 0
        self.thread_seq_id_bitmap = 0
        self._begin = time.perf_counter_ns()
        # The instance of the protocol's class that belongs to this connection.
        self.protocol: Any = None
        self.peer: Any = None
        # Of the HTTP request being answered; see `http11`.
        self.http_method = ""
        self.http_path = ""
        self.http_query = ""
        self.http_headers: dict[str, str] = {}
        self.http_header: dict[str, Any] = {}
        self.http_status = 200
        self.http_response_headers: dict[str, str] = {}
        # Has the event loop see to the connection; set while it is open.
        self._wake: Callable[[], None] | None = None
        self._closing = False
        self._file: FileToSend | None = None
        self._operation: FileOperation | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.ip}:{self.port}>"

    def elapsed(self) -> int:
        """Microseconds since what is being handled came."""
        return (time.perf_counter_ns() - self._begin) // 1000

    def next_send_id(self) -> int:
        """The number that the next thing sent will have."""
        return self.send_id + 1

    def close(self) -> None:
        """Close the connection once everything is sent that callbacks have returned so far."""
        if not self._closing:
            self._closing = True
            if self._wake is not None:
                self._wake()

    def shutdown(self) -> None:
        """Shut down the server of the connection; a client's is closed."""
        if self.parent is None:
            self.close()
        else:
            self.parent.shutdown()

    def shutdown_server(self) -> None:
        """Shut down the server of the connection: it takes no more, and closes what it has."""
        if self.parent is not None:
            self.parent.shutdown()

    def sendfile(self, before: Any, path: str | os.PathLike[str], after: Any) -> None:
        """Have a file sent, after `before` and before `after`, once the callback returns `None`.

        `before` and `after` are bytes, strings or `None`. The system sends the file without its
        going through the process. Raises what `open()` raises, and `RuntimeError` if the callback
        has something scheduled already.
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
        """As `sendfile()`, a range of the file; `InvalidFileRangeError` if it is not within it."""
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
        """Have a file read once the callback returns `None`; then `callback(transport, data)`.

        What that returns is sent; without a callback, the data is. Errors go to `errback` as a
        triple, or to the protocol's `exception_handler`. Nothing else is handled meanwhile.
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
        """Have a file written once the callback returns `None`; then `callback(transport, count)`.

        What that returns is sent. The rest is as with `readfile()`.
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
            raise RuntimeError("something is scheduled already in this callback")

    def _take_scheduled(self) -> tuple[FileToSend | None, FileOperation | None]:
        scheduled = self._file, self._operation
        self._file = self._operation = None
        return scheduled
