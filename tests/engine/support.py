"""What the tests of the engine share."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

from hybridloop import Engine

HOST = "127.0.0.1"


class Gate:
    """Tasks that wait until they are let go, in whichever thread they are."""

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


def running_on(engine: Engine) -> list[int]:
    return [thread.running for thread in engine.stats().threads]


async def result_of(awaitable: Any) -> Any:
    return await awaitable
