"""Async functions in Rust: Tokio's network, and coroutines of Python that they await.

python -m examples.awaitables.rust_tokio
"""

from __future__ import annotations

import asyncio
from typing import Any

import hybridloop
from examples.awaitables.extensions import build_rust


class Shouter:
    """Answers a line, but "wait" only at the end."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        line = await reader.readline()
        if line == b"wait\n":
            await self.end.wait()
        writer.write(line.upper())
        writer.close()
        await writer.wait_closed()


async def main(lines: Any) -> None:
    shouter = Shouter()
    async with await asyncio.start_server(shouter.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        print("one:", await lines.ask(port, "hello"))
        print("several:", *await asyncio.gather(*(lines.ask(port, it) for it in "abc")))

        words = iter(["from", "Python", None])

        async def next_word() -> str | None:
            await asyncio.sleep(0.001)
            return next(words)

        print("awaited:", *await lines.ask_all(port, next_word))
        try:
            await lines.ask(port, "wait", seconds=0.01)
        except TimeoutError as error:
            print("refused:", error)
        waiting = asyncio.ensure_future(lines.ask(port, "wait"))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        print("cancelled:", waiting.cancelled())
        shouter.end.set()
        await asyncio.wait(shouter.tasks)


if __name__ == "__main__":
    hybridloop.run(main(build_rust("lines")))
