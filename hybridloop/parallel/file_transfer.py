"""File operations of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .transport import Connection, FileOperation, FileToSend, IoOp, ResponseEncoder


class FileTransferMixin:
    """The part of `ConnectionProtocol` that sends, reads and writes files."""

    connection: Connection
    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    op: IoOp
    busy: bool
    sent: bytes | None
    broken: ConnectionError | None

    async def drain(self) -> None:
        """Wait until everything that was written is sent."""
        raise NotImplementedError

    def invoke(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a callback."""
        raise NotImplementedError

    def send_result(self, name: str, result: Any, encoder: ResponseEncoder | None = None) -> None:
        """Send the result of a callback."""
        raise NotImplementedError

    async def send_file(self, file: FileToSend) -> None:
        """Send a file, with the bytes before and after it."""
        connection = self.connection
        connection.send_id += 1
        self.op = IoOp.SENDFILE
        if file.before:
            self.transport.write(file.before)
        if file.count:
            try:
                sent = await self.loop.sendfile(self.transport, file.file, file.offset, file.count)
            except ConnectionError as error:
                # The transport would notice only when it reads.
                self.broken = error
                self.transport.abort()
                return
            if sent != file.count:
                raise OSError(f"{file.path!r} has become shorter while it was sent")
        if file.after:
            self.transport.write(file.after)
        await self.drain()
        count = len(file.before or b"") + file.count + len(file.after or b"")
        connection.num_bytes_just_sent = count
        connection.total_bytes_sent += count
        self.sent = b""

    async def run_file_operation(
        self, operation: FileOperation, encoder: ResponseEncoder | None
    ) -> None:
        """Read or write a file in another thread, and send the result of the callback."""
        name, function, callback, errback = operation
        self.op = IoOp[name.upper()]
        try:
            value = await asyncio.to_thread(function)
            result = None if callback is None else self.invoke(callback, self.connection, value)
        except Exception as error:
            if errback is None:
                raise
            result = errback((type(error), error, error.__traceback__))
            if result is not None:
                raise ValueError(f"non-None return value detected: {result!r}") from None
        self.busy = False
        self.send_result(name, result, encoder)
