"""What a connection does with files, while nothing else happens on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .transport import FileOperation, FileToSend, IoOp

if TYPE_CHECKING:
    from .connection_protocol import ConnectionProtocol, ResponseEncoder


async def send_file(conn: ConnectionProtocol, file: FileToSend) -> None:
    """Send a file, with what goes before and after it."""
    connection = conn.connection
    connection.send_id += 1
    conn.op = IoOp.SENDFILE
    if file.before:
        conn.transport.write(file.before)
    if file.count:
        try:
            sent = await conn.loop.sendfile(conn.transport, file.file, file.offset, file.count)
        except ConnectionError as error:
            # The transport would not find out before it reads.
            conn.broken = error
            conn.transport.abort()
            return
        if sent != file.count:
            raise OSError(f"{file.path!r} has become shorter while it was sent")
    if file.after:
        conn.transport.write(file.after)
    await conn.drain()
    count = len(file.before or b"") + file.count + len(file.after or b"")
    connection.num_bytes_just_sent = count
    connection.total_bytes_sent += count
    conn.sent = b""


async def work_on_file(
    conn: ConnectionProtocol, operation: FileOperation, encoder: ResponseEncoder | None
) -> None:
    """Read or write a file in another thread, and send what the callback makes of it."""
    name, function, callback, errback = operation
    conn.op = IoOp[name.upper()]
    try:
        value = await asyncio.to_thread(function)
        result = None if callback is None else conn.invoke(callback, conn.connection, value)
    except Exception as error:
        if errback is None:
            raise
        result = errback((type(error), error, error.__traceback__))
        if result is not None:
            raise ValueError(f"non-None return value detected: {result!r}") from None
    conn.busy = False
    conn.send_result(name, result, encoder)
