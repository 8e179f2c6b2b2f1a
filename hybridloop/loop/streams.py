"""Streams with a native reader and writer.

They are subclasses of asyncio's classes, with the same methods, errors and limits.
`asyncio.open_connection()` and related functions still make asyncio's own readers and writers.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import format_helpers
from functools import partial
from typing import TYPE_CHECKING, Any

from .._core import StreamProtocolCore, StreamReaderCore, StreamWriterCore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_DEFAULT_LIMIT = 2**16  # 64 KiB, as asyncio's


class _BufferCopy(bytearray):
    """A copy of the data in a reader's buffer. `clear()` also removes that data from the reader."""

    __slots__ = ("_reader",)

    def __init__(self, reader: StreamReader) -> None:
        super().__init__(reader._buffered)
        self._reader = reader

    def clear(self) -> None:
        super().clear()
        self._reader._clear_buffer()


class StreamReader(StreamReaderCore, asyncio.StreamReader):
    """An `asyncio.StreamReader` that stores and searches its data natively."""

    _source_traceback: Any

    def __init__(
        self, limit: int = _DEFAULT_LIMIT, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        if limit <= 0:
            raise ValueError("Limit cannot be <= 0")
        if loop is None:
            loop = asyncio.get_event_loop()
        self._init(limit, loop)
        if loop.get_debug():
            self._source_traceback = format_helpers.extract_stack(sys._getframe(1))

    @property
    def _buffer(self) -> bytearray:
        # asyncio's start_tls() takes the data that belongs to TLS from here.
        return _BufferCopy(self)


class StreamWriter(StreamWriterCore, asyncio.StreamWriter):
    """An `asyncio.StreamWriter` whose `write()` and `drain()` are native."""

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        protocol: asyncio.BaseProtocol,
        reader: asyncio.StreamReader | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._transport = transport
        self._protocol = protocol
        # drain() calls its exception().
        assert reader is None or isinstance(reader, asyncio.StreamReader)
        self._reader = reader
        self._loop = loop


class StreamReaderProtocol(StreamProtocolCore, asyncio.StreamReaderProtocol):
    """An `asyncio.StreamReaderProtocol` that transports of hybridloop feed natively."""

    _client_connected_cb: Any
    _reject_connection: bool
    if TYPE_CHECKING:

        @property
        def _stream_reader(self) -> StreamReader | None: ...

    def connection_made(self, transport: Any) -> None:
        """Like asyncio's, but the callback gets a native writer."""
        callback = self._client_connected_cb
        # Otherwise asyncio would call it with its own writer.
        self._client_connected_cb = None
        try:
            super().connection_made(transport)
        finally:
            self._client_connected_cb = callback
        if callback is None or self._reject_connection:
            return
        reader = self._stream_reader
        try:
            result: Any = callback(reader, StreamWriter(transport, self, reader, self._loop))
        except Exception as exc:
            _client_failed(self._loop, transport, exc)
        else:
            if asyncio.iscoroutine(result):
                self._task = self._loop.create_task(result)
                self._task.add_done_callback(partial(_client_task_done, self._loop, transport))
        self._strong_reader = None


def _client_task_done(
    loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, task: asyncio.Task[None]
) -> None:
    if task.cancelled():
        transport.close()
        return
    exc = task.exception()
    if exc is not None:
        _client_failed(loop, transport, exc)


def _client_failed(
    loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, exc: BaseException
) -> None:
    loop.call_exception_handler(
        {
            "message": "Unhandled exception in client_connected_cb",
            "exception": exc,
            "transport": transport,
        }
    )
    transport.close()


async def open_connection(
    host: Any = None,
    port: Any = None,
    *,
    limit: int = _DEFAULT_LIMIT,
    **kwds: Any,
) -> tuple[StreamReader, StreamWriter]:
    """Like `asyncio.open_connection()`, with a native reader and writer."""
    loop = asyncio.get_running_loop()
    protocol, reader = _make_client_protocol(loop, limit)
    transport, _ = await loop.create_connection(lambda: protocol, host, port, **kwds)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def start_server(
    client_connected_cb: Callable[[StreamReader, StreamWriter], Awaitable[None] | None],
    host: str | Sequence[str] | None = None,
    port: int | str | None = None,
    *,
    limit: int = _DEFAULT_LIMIT,
    **kwds: Any,
) -> asyncio.Server:
    """Like `asyncio.start_server()`, with native readers and writers."""
    loop = asyncio.get_running_loop()
    factory = partial(_make_server_protocol, loop, limit, client_connected_cb)
    return await loop.create_server(factory, host, port, **kwds)  # type: ignore[arg-type]


async def open_unix_connection(
    path: str | None = None, *, limit: int = _DEFAULT_LIMIT, **kwds: Any
) -> tuple[StreamReader, StreamWriter]:
    """Like `asyncio.open_unix_connection()`, with a native reader and writer."""
    loop = asyncio.get_running_loop()
    protocol, reader = _make_client_protocol(loop, limit)
    transport, _ = await loop.create_unix_connection(lambda: protocol, path, **kwds)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def start_unix_server(
    client_connected_cb: Callable[[StreamReader, StreamWriter], Awaitable[None] | None],
    path: str | None = None,
    *,
    limit: int = _DEFAULT_LIMIT,
    **kwds: Any,
) -> asyncio.Server:
    """Like `asyncio.start_unix_server()`, with native readers and writers."""
    loop = asyncio.get_running_loop()
    factory = partial(_make_server_protocol, loop, limit, client_connected_cb)
    return await loop.create_unix_server(factory, path, **kwds)


def _make_client_protocol(
    loop: asyncio.AbstractEventLoop, limit: int
) -> tuple[StreamReaderProtocol, StreamReader]:
    reader = StreamReader(limit=limit, loop=loop)
    return StreamReaderProtocol(reader, loop=loop), reader


def _make_server_protocol(
    loop: asyncio.AbstractEventLoop,
    limit: int,
    client_connected_cb: Callable[[StreamReader, StreamWriter], Awaitable[None] | None],
) -> StreamReaderProtocol:
    reader = StreamReader(limit=limit, loop=loop)
    protocol: StreamReaderProtocol = StreamReaderProtocol(reader, client_connected_cb, loop=loop)
    return protocol
