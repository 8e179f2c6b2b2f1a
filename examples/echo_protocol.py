"""An echo server as an asyncio.Protocol, and a client that checks what comes back.

python examples/echo_protocol.py
"""

from __future__ import annotations

import asyncio
import os
from typing import cast

import hybridloop


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        for size in (1, 1_000, 1_000_000):
            message = os.urandom(size)
            writer.write(message)
            assert await reader.readexactly(size) == message
            print(f"{size:>9,} bytes came back from {host}:{port}")
        writer.close()
        await writer.wait_closed()


if __name__ == "__main__":
    hybridloop.run(main())
