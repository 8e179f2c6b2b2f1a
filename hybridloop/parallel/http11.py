"""HTTP/1.1 for protocols with `http11 = True`: a request for `/name` calls their method `name`.

It needs httptools (`pip install 'hybridloop[http]'`).
"""

from __future__ import annotations

import email.utils
import json
import mimetypes
import time
import types
import urllib.parse
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

try:
    import httptools
except ImportError:
    raise ImportError("http11 needs httptools: pip install 'hybridloop[http]'") from None

from .protocol import RESERVED
from .transport import FileToSend, ResponseEncoder

if TYPE_CHECKING:
    from .connection_protocol import ConnectionProtocol

_MAX_HEAD = 65536
_METHODS = ("GET", "HEAD", "POST")
_NO_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class _Request:
    """A request, while it is received and until it is answered."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()
        self.method = ""
        self.version = "1.1"
        self.keep_alive = False
        self.complete = False
        # The client waits for "100 Continue" before it sends the body.
        self.expects_continue = False
        self.has_host = False
        self.content_length = 0
        # The status to answer an invalid request with.
        self.error_status: HTTPStatus | None = None


class HttpConnection:
    """The requests of one connection, which are answered one after the other."""

    def __init__(self, conn: ConnectionProtocol) -> None:
        self.conn = conn
        self.connection = conn.connection
        self.protocol = conn.protocol
        self.routes = find_routes(type(conn.protocol))
        self.requests: deque[_Request] = deque()
        self.request = _Request()
        self.in_head = True
        self.head_size = 0
        self.broken = False
        # Bytes of requests that were not answered yet.
        self.buffered_bytes = 0
        self.max_body = int(getattr(self.protocol, "max_request_body", 16 << 20))
        self.parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        """Parse received data."""
        if self.broken:
            return
        self.buffered_bytes += len(data)
        self.head_size += len(data)
        rest: Any = data
        while rest and not self.broken:
            try:
                self.parser.feed_data(rest)
                break
            except httptools.HttpParserUpgrade as upgrade:
                # Upgrades are not supported: the next request follows.
                rest = rest[upgrade.args[0] :]
            except httptools.HttpParserError:
                self.reject(HTTPStatus.BAD_REQUEST)
        if self.in_head and self.head_size > _MAX_HEAD and not self.broken:
            self.reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def reject(self, status: HTTPStatus) -> None:
        """Answer the current request with an error, and ignore further input."""
        self.broken = True
        if self.request.complete:
            self.request = _Request()
        if self.request.error_status is None:
            self.request.error_status = status
        if not self.requests or self.requests[-1] is not self.request:
            self.requests.append(self.request)

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        self.request = _Request()
        self.in_head = True

    def on_url(self, url: bytes) -> None:
        self.request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self.request
        request.headers.append((name.decode("latin-1"), value.decode("latin-1")))
        key = name.lower()
        if key == b"expect":
            request.expects_continue = value.strip().lower() == b"100-continue"
        elif key == b"content-length" and value.strip().isdigit():
            request.content_length = int(value)
        elif key == b"host":
            request.has_host = True

    def on_headers_complete(self) -> None:
        request = self.request
        request.method = self.parser.get_method().decode("latin-1")
        request.version = self.parser.get_http_version()
        request.keep_alive = self.parser.should_keep_alive()
        self.in_head = False
        self.head_size = 0
        if not request.has_host and request.version == "1.1":
            self.reject(HTTPStatus.BAD_REQUEST)
        elif request.version not in ("1.0", "1.1"):
            self.reject(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        elif request.content_length > self.max_body:
            self.reject(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self.requests.append(request)

    def on_body(self, body: bytes) -> None:
        request = self.request
        if request.error_status is None:
            request.body += body
            if len(request.body) > self.max_body:
                self.reject(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def on_message_complete(self) -> None:
        # For a chunked request this is known only now.
        self.request.keep_alive = self.request.keep_alive and self.parser.should_keep_alive()
        self.request.complete = True
        self.in_head = True
        self.head_size = 0

    # Called by ConnectionProtocol.

    def step(self) -> bool:
        """Answer the next request; `False` if none is complete."""
        if not self.requests:
            return False
        request = self.requests[0]
        if not request.complete and request.error_status is None:
            if request.expects_continue and not request.body:
                request.expects_continue = False
                self.conn.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return False
        self.requests.popleft()
        if not self.requests:
            self.buffered_bytes = 0
        try:
            self.respond(request)
        except BaseException as error:
            self.fail(request, error)
        return True

    def respond(self, request: _Request) -> None:
        """Call the method for a request."""
        connection = self.connection
        connection.http_status = HTTPStatus.OK
        connection.http_response_headers = {}
        if request.error_status is not None:
            request.keep_alive = False
            self.respond_with_error(request, request.error_status)
            return
        path, _, query = request.target.decode("latin-1").partition("?")
        if not path.startswith("/") and "://" in path:
            # A complete URL, as in requests to a proxy.
            path = "/" + path.partition("://")[2].partition("/")[2]
        path = urllib.parse.unquote(path)
        function = self.routes.get(path[1:]) if path[:1] == "/" else None
        if function is not None:
            function = function.__get__(self.protocol)
        else:
            function = self.conn.callbacks.get("data_received")
        if function is None:
            self.respond_with_error(request, HTTPStatus.NOT_FOUND)
            return
        allowed = tuple(getattr(self.protocol, "http_methods", _METHODS))
        if request.method not in allowed:
            connection.http_response_headers["Allow"] = ", ".join(allowed)
            self.respond_with_error(request, HTTPStatus.METHOD_NOT_ALLOWED)
            return
        connection.http_method = request.method
        connection.http_path = path
        connection.http_query = query
        connection.http_headers = _headers(request)
        connection.http_header = {
            **dict(request.headers),
            "path": path[1:],
            "method": request.method,
            "minor_version": int(request.version[-1]),
        }
        result = self.conn.invoke(function, connection, bytes(request.body))
        self.conn.send_result(path, result, _HttpEncoder(self, request))

    def respond_with_error(self, request: _Request, status: HTTPStatus) -> None:
        self.connection.http_status = status
        text = f"{status.value} {status.phrase}\n".encode()
        self.finish(request, self.encode(request, "text/plain; charset=utf-8", len(text), text))

    def fail(self, request: _Request, error: BaseException) -> None:
        """A method has raised: respond with 500, then report the exception."""
        name = request.target.decode("latin-1")
        request.keep_alive = False
        self.connection.http_response_headers = {}
        self.respond_with_error(request, HTTPStatus.INTERNAL_SERVER_ERROR)
        self.conn.fail(name, error)

    def finish(self, request: _Request, data: bytes) -> None:
        self.conn.send(data)
        if not request.keep_alive:
            self.connection._closing = True

    def encode(
        self, request: _Request, content_type: str | None, length: int, body: bytes
    ) -> bytes:
        """The response: its head and, except for HEAD, the body."""
        connection = self.connection
        status = HTTPStatus(connection.http_status)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", "Server: hybridloop", _date()]
        given = connection.http_response_headers
        names = {name.lower() for name in given}
        if status not in _NO_BODY and status >= 200:
            if content_type is not None and "content-type" not in names:
                lines.append(f"Content-Type: {content_type}")
            lines.append(f"Content-Length: {length}")
        for name, value in given.items():
            line = f"{name}: {value}"
            if "\r" in line or "\n" in line or name.lower() == "content-length":
                raise ValueError(f"{line!r} is not a valid response header")
            lines.append(line)
        if not request.keep_alive:
            lines.append("Connection: close")
        elif request.version == "1.0":
            lines.append("Connection: keep-alive")
        head = "\r\n".join((*lines, "", "")).encode("latin-1")
        return head if request.method == "HEAD" or status in _NO_BODY else head + body


class _HttpEncoder(ResponseEncoder):
    """Makes a response of the result of a method."""

    def __init__(self, http: HttpConnection, request: _Request) -> None:
        self.http = http
        self.request = request
        self.is_encoded = False

    def __call__(self, result: Any) -> Any:
        http, request = self.http, self.request
        if isinstance(result, FileToSend):
            return self.file(result)
        if result is None:
            http.connection.http_status = (
                HTTPStatus.NO_CONTENT
                if http.connection.http_status == HTTPStatus.OK
                else http.connection.http_status
            )
            content_type, body = "text/plain; charset=utf-8", b""
        elif isinstance(result, (bytes, bytearray)):
            content_type, body = "text/plain; charset=utf-8", bytes(result)
        elif isinstance(result, str):
            content_type, body = "text/html; charset=utf-8", result.encode()
        else:
            dumps = getattr(http.protocol, "json_dumps", json.dumps)
            text = dumps(result)
            content_type = "application/json; charset=utf-8"
            body = text if isinstance(text, bytes) else text.encode()
        response = http.encode(request, content_type, len(body), body)
        self.finish()
        return response

    def finish(self) -> None:
        """The response is complete: it cannot become an error response any more."""
        self.is_encoded = True
        if not self.request.keep_alive:
            self.http.connection._closing = True

    def failed(self, name: str, error: BaseException) -> None:
        """The method has raised while it was awaited, or while its file was sent."""
        if not self.is_encoded:
            self.http.fail(self.request, error)
            return
        # The client notices the missing bytes by Content-Length.
        self.http.connection._closing = True
        self.http.conn.fail(name, error)

    def file(self, file: FileToSend) -> FileToSend:
        """Add a response head to a file, unless it has bytes to be sent before it."""
        http, request = self.http, self.request
        if file.before is not None:
            self.finish()
            return file
        if file.count != file.file_size:
            http.connection.http_status = HTTPStatus.PARTIAL_CONTENT
            last = file.offset + file.count - 1
            http.connection.http_response_headers["Content-Range"] = (
                f"bytes {file.offset}-{last}/{file.file_size}"
            )
        kind = mimetypes.guess_type(str(file.path))[0] or "application/octet-stream"
        length = file.count + len(file.after or b"")
        file.before = http.encode(request, kind, length, b"")
        if request.method == "HEAD":
            file.count = 0
            file.after = None
        self.finish()
        return file


def find_routes(cls: type) -> dict[str, Callable[..., Any]]:
    """The methods of a class that serve pages: public ones of the class itself, no callbacks."""
    return {
        name: value
        for name, value in vars(cls).items()
        if isinstance(value, types.FunctionType) and name[0] != "_" and name not in RESERVED
    }


def _headers(request: _Request) -> dict[str, str]:
    """Header values by lower-case names; repeated headers are joined."""
    headers: dict[str, str] = {}
    for name, value in request.headers:
        key = name.lower()
        if key in headers:
            headers[key] += ("; " if key == "cookie" else ", ") + value
        else:
            headers[key] = value
    return headers


_cached_date = (0, "")


def _date() -> str:
    global _cached_date
    now = int(time.time())
    if _cached_date[0] != now:
        _cached_date = (now, f"Date: {email.utils.formatdate(now, usegmt=True)}")
    return _cached_date[1]
