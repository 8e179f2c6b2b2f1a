"""Helpers for the tests of engines, some of which use private attributes of engines."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

from hybridloop import Engine, TaskHandle
from hybridloop.engine.loop_thread import LoopThread

HOST = "127.0.0.1"


class Gate:
    """Tasks that wait until they are released, on any thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        self.inside: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.open = False

    async def enter(self) -> str:
        name = threading.current_thread().name
        with self.lock:
            self.inside[name] += 1
            self.most[name] = max(self.most[name], self.inside[name])
            waiter = None
            if not self.open:
                loop = asyncio.get_running_loop()
                waiter = loop.create_future()
                self.waiting.setdefault(loop, []).append(waiter)
        try:
            if waiter is not None:
                await waiter
            await asyncio.sleep(0)
            return name
        finally:
            with self.lock:
                self.inside[name] -= 1

    def release(self) -> None:
        with self.lock:
            self.open = True
            waiting, self.waiting = self.waiting, {}
        for loop, waiters in waiting.items():
            with suppress(RuntimeError):  # the loop of a thread that has failed
                loop.call_soon_threadsafe(self._wake, waiters)

    @staticmethod
    def _wake(waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


async def value(result: Any) -> Any:
    await asyncio.sleep(0)
    return result


async def fail(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


def threads_of(engine: Engine) -> list[LoopThread]:
    return engine._threads


def has_servers(engine: Engine) -> bool:
    """Whether a server of the engine has not ended."""
    return bool(engine._scheduler.server_stop_hooks)


def is_running(handle: TaskHandle[Any]) -> bool:
    return repr(handle).endswith(" running>")


def running_on(engine: Engine) -> list[int]:
    return [thread.running for thread in engine.stats().threads]


async def result_of(awaitable: Any) -> Any:
    return await awaitable
