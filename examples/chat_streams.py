"""A chat room on asyncio streams: each line a client sends goes to everybody in the room.

python examples/chat_streams.py          serve on port 8888 until Ctrl-C
python examples/chat_streams.py --show   let three clients talk to each other, and end
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import hybridloop

PORT = 8888


class Room:
    def __init__(self) -> None:
        self.members: dict[str, asyncio.StreamWriter] = {}

    async def member(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: its first line is the member's name, every other line a message."""
        name = (await reader.readline()).decode(errors="replace").strip()
        if not name or name in self.members:
            writer.write(b"that name is taken or empty\n")
        else:
            self.members[name] = writer
            self.broadcast(f"{name} joined")
            try:
                await self.listen(name, reader)
            finally:
                del self.members[name]
                self.broadcast(f"{name} left")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def listen(self, name: str, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                self.broadcast(f"{name}: {line.decode(errors='replace').strip()}")

    def broadcast(self, text: str) -> None:
        for writer in self.members.values():
            writer.write(f"{text}\n".encode())


async def guest(name: str, port: int, others: int, joined: asyncio.Barrier) -> list[str]:
    """Join, wait for all guests, say one thing, and read one thing of each other guest."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{name}\n".encode())
    await reader.readuntil(f"{name} joined\n".encode())
    await joined.wait()
    writer.write(b"hello\n")
    heard: list[str] = []
    while len(heard) < others:
        line = (await reader.readline()).decode().strip()
        if line.endswith(": hello") and not line.startswith(name):
            heard.append(line)
    # Nobody leaves before everybody has heard everybody.
    await joined.wait()
    writer.close()
    await writer.wait_closed()
    return heard


async def show() -> None:
    server = await asyncio.start_server(Room().member, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        names = ("Ada", "Grace", "Hedy")
        joined = asyncio.Barrier(len(names))
        async with asyncio.timeout(10):
            heard = await asyncio.gather(
                *(guest(name, port, len(names) - 1, joined) for name in names)
            )
    for name, lines in zip(names, heard, strict=True):
        print(f"{name} heard {' and '.join(repr(line) for line in sorted(lines))}")


async def serve() -> None:
    server = await asyncio.start_server(Room().member, "127.0.0.1", PORT)
    print(f"the chat room is open: nc 127.0.0.1 {PORT}, first line your name; Ctrl-C closes it")
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        hybridloop.run(show() if "--show" in sys.argv else serve())
