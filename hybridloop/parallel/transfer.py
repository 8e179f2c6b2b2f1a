"""What a connection does with files, while nothing else happens on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .transport import FileOperation, FileToSend, IoOp

if TYPE_CHECKING:
    from .link import Answer, Link


async def send_file(link: Link, file: FileToSend) -> None:
    """Send a file, with what goes before and after it."""
    connection = link.connection
    connection.send_id += 1
    link.op = IoOp.SENDFILE
    if file.before:
        link.transport.write(file.before)
    if file.count:
        try:
            sent = await link.loop.sendfile(link.transport, file.file, file.offset, file.count)
        except ConnectionError as error:
            # The transport would not find out before it reads.
            link.broken = error
            link.transport.abort()
            return
        if sent != file.count:
            raise OSError(f"{file.path!r} has become shorter while it was sent")
    if file.after:
        link.transport.write(file.after)
    await link.drain()
    count = len(file.before or b"") + file.count + len(file.after or b"")
    connection.num_bytes_just_sent = count
    connection.total_bytes_sent += count
    link.sent = b""


async def work_on_file(link: Link, operation: FileOperation, then: Answer | None) -> None:
    """Read or write a file in another thread, and send what the callback makes of it."""
    name, function, callback, errback = operation
    link.op = IoOp[name.upper()]
    try:
        value = await asyncio.to_thread(function)
        result = None if callback is None else link.run(callback, link.connection, value)
    except Exception as error:
        if errback is None:
            raise
        result = errback((type(error), error, error.__traceback__))
        if result is not None:
            raise ValueError(f"non-None return value detected: {result!r}") from None
    link.busy = False
    link.deliver(name, result, then)
