"""The interface of protocol classes that programs register."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_CALLBACKS = (
    "connection_closed",
    "connection_error",
    "connection_lost",
    "connection_made",
    "connection_timeout",
    "data_received",
    "data_sent",
    "exception_handler",
    "initial_connection_error",
    "line_received",
    "lines_received",
    "send_complete",
    "send_failed",
)
# Names of a protocol class that do not serve pages.
RESERVED = frozenset(
    (*_CALLBACKS, "initial_bytes_to_send", "next_bytes_to_send", "json_dumps", "json_loads")
)


class Protocol:
    """An optional base class, with all callbacks.

    The result of a callback is sent: `bytes`, `bytearray`, or `str` as UTF-8; an awaitable is
    awaited for it. Each connection has its own instance. A class needs only the callbacks that it
    uses. A server whose class has no callback for input closes a connection when everything is
    sent.
    """

    line_mode = False
    initial_bytes_to_send: Any = None

    def connection_made(self, transport: Any, data: bytes) -> Any:
        """The connection was made, and `initial_bytes_to_send` was sent."""

    def connection_closed(self, transport: Any, op: int) -> None:
        """The connection was closed in order."""

    def connection_lost(self, transport: Any, op: int) -> None:
        """The peer has reset the connection."""

    def connection_timeout(self, transport: Any, op: int) -> None:
        """There was no activity for `sock_timeout` seconds, or connecting timed out."""

    def connection_error(self, transport: Any, op: int, syscall: str, errcode: int | None) -> None:
        """The connection failed, or could not be made."""

    def data_received(self, transport: Any, data: bytes) -> Any:
        """Data was received."""

    def line_received(self, transport: Any, line: bytes) -> Any:
        """A line was received, including its end. Replaces `data_received()` in `line_mode`."""

    def data_sent(self, transport: Any, data: bytes) -> Any:
        """Data was passed to the operating system."""

    def send_failed(self, transport: Any, data: bytes) -> None:
        """The connection ended before data was sent."""


class Callbacks:
    """The callbacks of a protocol, looked up once per connection."""

    def __init__(self, protocol: Any) -> None:
        self._found: dict[str, Callable[..., Any]] = {}
        for name in _CALLBACKS:
            function = getattr(protocol, name, None)
            if function is None:
                continue
            if not callable(function):
                raise ValueError(f"protocol attribute {name!r} is not a callable object")
            self._found[name] = function
        self.get = self._found.get
        self.http11 = bool(getattr(protocol, "http11", False))
        self.initial_bytes = _get_bytes_attribute(protocol, "initial_bytes_to_send")
        # The value is read for each input: it may change.
        self.has_next_bytes = _get_bytes_attribute(protocol, "next_bytes_to_send") is not None
        self._line_names = [
            name
            for name in ("line_mode", "lines_mode")
            if getattr(protocol, name, None) is not None
        ]
        self.wants_sent = "send_complete" in self._found or "data_sent" in self._found
        self.takes_input = (
            self.http11
            or self.has_next_bytes
            or any(name in self._found for name in ("data_received", "line_received"))
            or "lines_received" in self._found
        )
        for mode, callback in (("line_mode", "line_received"), ("lines_mode", "lines_received")):
            if getattr(protocol, mode, False) and callback not in self._found:
                raise ValueError(f"protocol has {mode!r} set, but no {callback!r} callback")

    def takes_lines(self, protocol: Any) -> bool:
        """Whether input is split into lines; the protocol may change that at any time."""
        names = self._line_names
        return bool(names) and any(getattr(protocol, name, False) for name in names)

    def argument_count(self, name: str, most: int) -> int:
        """How many positional arguments a callback accepts, up to `most`."""
        try:
            parameters = inspect.signature(self._found[name]).parameters.values()
        except (TypeError, ValueError):
            return most
        positional = [
            it for it in parameters if it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD)
        ]
        if any(it.kind is it.VAR_POSITIONAL for it in parameters):
            return most
        return min(most, len(positional))


def _get_bytes_attribute(protocol: Any, name: str) -> Any:
    given = getattr(protocol, name, None)
    if given is None or isinstance(given, (bytes, bytearray, str)) or callable(given):
        return given
    raise ValueError(f"{name} must be bytes, bytearray, str or callable, not {given!r}")
