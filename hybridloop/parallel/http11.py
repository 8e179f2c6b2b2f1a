"""HTTP/1.1 for protocols with `http11 = True`: a request for `/name` calls their method `name`.

It needs h11 (`pip install 'hybridloop[http]'`), which holds requests and responses to RFC 9112.
"""

from __future__ import annotations

import email.utils
import json
import mimetypes
import time
import types
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

try:
    import h11
except ImportError:
    raise ImportError("http11 needs h11: pip install 'hybridloop[http]'") from None

from .protocol import RESERVED
from .transport import FileToSend, ResponseEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .connection_protocol import ConnectionProtocol

_MAX_HEAD = 65536
_METHODS = ("GET", "HEAD", "POST")
_NO_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class _Request:
    """A request, while it is received and until it is answered."""

    def __init__(self, event: h11.Request) -> None:
        self.target = event.target.decode("latin-1")
        self.headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in event.headers.raw_items()
        ]
        self.method = event.method.decode("latin-1")
        self.version = event.http_version.decode("latin-1")
        self.body = bytearray()


class HttpConnection:
    """The requests of one connection, of which one is received and answered after the other."""

    def __init__(self, conn: ConnectionProtocol) -> None:
        self.conn = conn
        self.connection = conn.connection
        self.protocol = conn.protocol
        self.routes = find_routes(type(conn.protocol))
        self.max_body = int(getattr(self.protocol, "max_request_body", 16 << 20))
        self.parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self.request: _Request | None = None
        # What the parser has not been given yet, and how much of a head it has.
        self.input = bytearray()
        self.head_size = 0
        # No more requests are answered.
        self.ended = False

    # Called by ConnectionProtocol.

    def feed(self, data: bytes) -> None:
        """Take received data, for `step()`."""
        if not self.ended:
            self.input += data

    def step(self) -> bool:
        """Receive the next request and answer it; `False` if it is not complete."""
        if self.ended:
            return False
        try:
            request = self.receive()
        except h11.RemoteProtocolError as error:
            self.reject(error.error_status_hint)
            return True
        if request is None:
            return self.ended
        try:
            self.respond(request)
        except BaseException as error:
            self.fail(request, error)
        return True

    def receive(self) -> _Request | None:
        """A complete request; `None` if there is none, or if it was rejected."""
        while True:
            event = self.parser.next_event()
            if event is h11.NEED_DATA:
                if not self.input:
                    if self.parser.they_are_waiting_for_100_continue:
                        proceed = h11.InformationalResponse(
                            status_code=100, reason=b"Continue", headers=[]
                        )
                        self.conn.transport.write(self.parser.send(proceed) or b"")
                    return None
                self.parse_more()
            elif isinstance(event, h11.Request):
                if not self.begin(event):
                    return None
            elif isinstance(event, h11.Data):
                assert self.request is not None
                self.request.body += event.data
                if len(self.request.body) > self.max_body:
                    self.reject(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                    return None
            else:
                return self.request

    def parse_more(self) -> None:
        """Give the parser so much that it never holds more than a head of the largest size."""
        room = _MAX_HEAD
        if self.parser.their_state is h11.IDLE:
            room -= self.head_size
            if not room:
                raise h11.RemoteProtocolError("head too large", error_status_hint=431)
        piece = bytes(self.input[:room])
        del self.input[:room]
        self.head_size += len(piece)
        self.parser.receive_data(piece)

    def begin(self, event: h11.Request) -> bool:
        """A head was received; `False` if the request is rejected."""
        self.request = request = _Request(event)
        headers = dict(event.headers)
        length = int(headers.get(b"content-length", 0))
        if request.version[:1] != "1":
            self.reject(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        elif b"transfer-encoding" in headers and (
            b"content-length" in headers or request.version == "1.0"
        ):
            # Somebody before this server may have seen another end of the body (RFC 9112, 6.1).
            self.reject(HTTPStatus.BAD_REQUEST)
        elif length > self.max_body:
            self.reject(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return not self.ended

    def reject(self, status: int) -> None:
        """Answer a wrong request with an error, and ignore further input."""
        self.connection.http_response_headers = {}
        self.respond_with_error(HTTPStatus(status), end=True)

    def respond(self, request: _Request) -> None:
        """Call the method for a request."""
        connection = self.connection
        connection.http_status = HTTPStatus.OK
        connection.http_response_headers = {}
        path, _, query = request.target.partition("?")
        if not path.startswith("/") and "://" in path:
            # A complete URL, as in requests to a proxy.
            path = "/" + path.partition("://")[2].partition("/")[2]
        path = urllib.parse.unquote(path)
        # A tunnel is never made.
        allowed = [it for it in getattr(self.protocol, "http_methods", _METHODS) if it != "CONNECT"]
        if request.method == "CONNECT":
            connection.http_response_headers["Allow"] = ", ".join(allowed)
            self.respond_with_error(HTTPStatus.METHOD_NOT_ALLOWED, end=True)
            return
        function = self.routes.get(path[1:]) if path[:1] == "/" else None
        if function is not None:
            function = function.__get__(self.protocol)
        else:
            function = self.conn.callbacks.get("data_received")
        if function is None:
            self.respond_with_error(HTTPStatus.NOT_FOUND)
            return
        if request.method not in allowed:
            connection.http_response_headers["Allow"] = ", ".join(allowed)
            self.respond_with_error(HTTPStatus.METHOD_NOT_ALLOWED)
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

    def respond_with_error(self, status: HTTPStatus, *, end: bool = False) -> None:
        """Respond with a text that says what is wrong; `end`: and end the connection."""
        self.connection.http_status = status
        text = f"{status.value} {status.phrase}\n".encode()
        response = self.encode("text/plain; charset=utf-8", text, end=end)
        self.conn.send(b"".join(response))

    def fail(self, request: _Request, error: BaseException) -> None:
        """A method has raised: respond with 500, then report the exception."""
        self.connection.http_response_headers = {}
        if self.parser.our_state is h11.SEND_RESPONSE:
            self.respond_with_error(HTTPStatus.INTERNAL_SERVER_ERROR, end=True)
        self.conn.fail(request.target, error)

    def encode(
        self, content_type: str | None, body: Sequence[int], *, end: bool = False
    ) -> list[Any]:
        """The head of a response and what of the body is to be sent; on to the next request.

        `body` is bytes, or anything else with the length of what is sent as the body.
        """
        connection = self.connection
        status = HTTPStatus(connection.http_status)
        headers = [("Server", "hybridloop"), ("Date", _date())]
        given = connection.http_response_headers
        names = {name.lower() for name in given}
        if refused := names & {"content-length", "transfer-encoding"}:
            raise ValueError(f"{refused.pop()} is not a valid response header: it is made here")
        if status not in _NO_BODY:
            if content_type is not None and "content-type" not in names:
                headers.append(("Content-Type", content_type))
            headers.append(("Content-Length", str(len(body))))
        headers += [(name, str(value)) for name, value in given.items()]
        if end or connection._closing:
            headers.append(("Connection", "close"))
        try:
            head = h11.Response(
                status_code=status.value,
                reason=status.phrase.encode(),
                headers=[
                    (name.encode("latin-1"), text.encode("latin-1")) for name, text in headers
                ],
            )
        except h11.LocalProtocolError as error:
            raise ValueError(f"{given!r} are not valid response headers: {error}") from None
        parts = [self.parser.send(head)]
        has_body = self.request is None or self.request.method != "HEAD"
        if has_body and status not in _NO_BODY:
            # The parser only counts the bytes.
            parts += self.parser.send_with_data_passthrough(h11.Data(data=body)) or ()  # type: ignore[arg-type]
        self.parser.send(h11.EndOfMessage())
        self.next_request(end)
        return parts

    def next_request(self, end: bool) -> None:
        """A response was made: be ready for the next request, unless the connection ends."""
        self.request = None
        if end or self.parser.our_state is not h11.DONE or self.parser.their_state is not h11.DONE:
            self.ended = self.connection._closing = True
            self.input.clear()
            return
        self.parser.start_next_cycle()
        # The beginning of the next request may be there.
        self.head_size = len(self.parser.trailing_data[0])


class _HttpEncoder(ResponseEncoder):
    """Makes a response of the result of a method."""

    def __init__(self, http: HttpConnection, request: _Request) -> None:
        self.http = http
        self.request = request
        self.is_encoded = False

    def __call__(self, result: Any) -> Any:
        http = self.http
        if isinstance(result, FileToSend):
            return self.file(result)
        if result is None:
            if http.connection.http_status == HTTPStatus.OK:
                http.connection.http_status = HTTPStatus.NO_CONTENT
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
        response = b"".join(http.encode(content_type, body))
        self.is_encoded = True
        return response

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
        http = self.http
        if file.before is not None:
            # The method has made a head itself; the parser is told that there was one.
            http.encode(None, b"")
            self.is_encoded = True
            return file
        if file.count != file.file_size:
            http.connection.http_status = HTTPStatus.PARTIAL_CONTENT
            last = file.offset + file.count - 1
            http.connection.http_response_headers["Content-Range"] = (
                f"bytes {file.offset}-{last}/{file.file_size}"
            )
        kind = mimetypes.guess_type(str(file.path))[0] or "application/octet-stream"
        file.before, *_ = http.encode(kind, range(file.count + len(file.after or b"")))
        self.is_encoded = True
        if self.request.method == "HEAD":
            file.count = 0
            file.after = None
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
        _cached_date = (now, email.utils.formatdate(now, usegmt=True))
    return _cached_date[1]
