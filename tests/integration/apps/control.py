"""A server that answers commands on its standard input, one line of JSON each.

The thread that reads them hands each to the loop by `call_soon_threadsafe` and prints the answer
itself, so that the loop's thread does nothing but serve between two commands.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import importlib
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import psutil

Command = Callable[..., Any]
Start = Callable[[], Awaitable[asyncio.base_events.Server]]


def new_event_loop() -> asyncio.AbstractEventLoop:
    module = importlib.import_module(os.environ["HYBRIDLOOP_TEST_LOOP"])
    loop: asyncio.AbstractEventLoop = module.new_event_loop()
    return loop


class Control:
    """The commands of every server, and the contexts of its exception handler."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.commands: dict[str, Command] = {
            "stats": self.stats,
            "errors": lambda: self.errors,
            "mark": self.mark,
        }

    def handle_exception(self, _loop: object, context: dict[str, Any]) -> None:
        self.errors.append(f"{context['message']}: {context.get('exception')!r}")

    def stats(self) -> dict[str, int]:
        gc.collect()
        process = psutil.Process()
        return {
            "fds": process.num_fds(),
            "rss": process.memory_info().rss,
            "objects": len(gc.get_objects()),
        }

    def mark(self, name: str) -> int:
        """Leave a mark among the loop thread's system calls; give that thread's id."""
        os.access(f"/mark/{name}", os.F_OK)
        return threading.get_native_id()


def run_server(start: Start, control: Control, **commands: Command) -> None:
    control.commands.update(commands)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(control.handle_exception)
        server = await start()
        end = asyncio.Event()
        port = server.sockets[0].getsockname()[1]
        thread = threading.Thread(target=read_commands, args=(loop, control, end, port))
        thread.start()
        await end.wait()
        server.close()
        thread.join()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


def read_commands(
    loop: asyncio.AbstractEventLoop, control: Control, end: asyncio.Event, port: int
) -> None:
    print("port", port, flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()
        loop.call_soon_threadsafe(execute, control.commands[name], arguments, answer)
        print("reply", json.dumps(answer.result()), flush=True)
    loop.call_soon_threadsafe(end.set)


def execute(command: Command, arguments: list[str], answer: concurrent.futures.Future[Any]) -> None:
    try:
        answer.set_result(command(*arguments))
    except Exception as exc:
        answer.set_exception(exc)
