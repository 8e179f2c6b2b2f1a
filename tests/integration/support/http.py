"""A blocking HTTP/1.1 client that shows each byte on the wire, for pipelining and half requests."""

from __future__ import annotations

import socket
import ssl
import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType

import httptools

TIMEOUT = 60.0


@dataclass
class Response:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def get(path: str, *, close: bool = False) -> bytes:
    connection = "close" if close else "keep-alive"
    return f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    return post_head(path, len(body)) + body


def post_head(path: str, content_length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {content_length}\r\n\r\n".encode()
    )


def chunked_post(path: str, chunks: Iterable[bytes]) -> list[bytes]:
    """The pieces of a chunked request, to be sent one by one."""
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    pieces = [head]
    pieces += [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks]
    return [*pieces, b"0\r\n\r\n"]


class RawConnection:
    """One socket, and the responses that arrive on it in order."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self._parser = httptools.HttpResponseParser(self)
        self._current = Response()
        self._done: deque[Response] = deque()
        self.partial_body = bytearray()

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> None:
        """Close with a TCP reset in place of the regular end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def response(self) -> Response:
        while not self._done:
            self._feed()
        return self._done.popleft()

    def request(self, data: bytes) -> Response:
        self.send(data)
        return self.response()

    def wait_for_body_bytes(self, count: int) -> None:
        """Read until `count` bytes of a body that has not ended are here."""
        while len(self.partial_body) < count:
            self._feed()

    def at_eof(self) -> bool:
        return self.sock.recv(1) == b""

    def _feed(self) -> None:
        data = self.sock.recv(65536)
        assert data, "connection ended in mid-response"
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._current = Response()
        self.partial_body.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._current.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self._current.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.partial_body += body

    def on_message_complete(self) -> None:
        self._current.body = bytes(self.partial_body)
        self._done.append(self._current)
