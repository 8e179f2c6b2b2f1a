"""What it costs an ordinary function to wait: `await_()` beside greenback, SQLAlchemy, nest_asyncio
and asgiref.

python -m benchmarks.waiting --rounds 7

Ways take turns in one process. Each figure is the median of the rounds: microseconds of CPU time
for one wait.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import hybridloop
from benchmarks.harness.tables import table
from hybridloop import await_, sync

WAITS = 5_000
Way = Callable[[int], Any]
ways: dict[str, tuple[str, Way]] = {}


def way(name: str, needs: str = "hybridloop") -> Callable[[Way], Way]:
    """Register a coroutine function that waits so many times and returns the seconds."""

    def register(function: Way) -> Way:
        ways[name] = (needs, function)
        return function

    return register


async def one_future() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(future.set_result, None)
    await future


def repeated(wait: Callable[[], object], count: int) -> float:
    begin = time.process_time()
    for _ in range(count):
        wait()
    return time.process_time() - begin


@way("await sleep(0)")
async def plain(count: int) -> float:
    begin = time.process_time()
    for _ in range(count):
        await asyncio.sleep(0)
    return time.process_time() - begin


@way("await_(sleep(0))")
async def own(count: int) -> float:
    return repeated(lambda: await_(asyncio.sleep(0)), count)


@way("await_() of a coroutine with one future")
async def own_future(count: int) -> float:
    return repeated(lambda: await_(one_future()), count)


@way("the first wait of a task")
async def first(count: int) -> float:
    async def waits() -> None:
        await_(asyncio.sleep(0))

    begin = time.process_time()
    await asyncio.gather(*(waits() for _ in range(count)))
    return time.process_time() - begin


@way("run_until_complete(sleep(0)) after sync.nest()")
async def nested(count: int) -> float:
    loop = asyncio.get_running_loop()
    sync.nest(loop)
    return repeated(lambda: loop.run_until_complete(asyncio.sleep(0)), count)


@way("greenback.await_(sleep(0))", "greenback")
async def greenback_wait(count: int) -> float:
    import greenback

    await greenback.ensure_portal()
    return repeated(lambda: greenback.await_(asyncio.sleep(0)), count)


@way("SQLAlchemy: await_() within greenlet_spawn()", "sqlalchemy")
async def spawned(count: int) -> float:
    from sqlalchemy.util import await_only, greenlet_spawn

    seconds: float = await greenlet_spawn(
        lambda: repeated(lambda: await_only(asyncio.sleep(0)), count)
    )
    return seconds


@way("SQLAlchemy: greenlet_spawn() with one await_()", "sqlalchemy")
async def spawn(count: int) -> float:
    from sqlalchemy.util import await_only, greenlet_spawn

    begin = time.process_time()
    for _ in range(count):
        await greenlet_spawn(lambda: await_only(asyncio.sleep(0)))
    return time.process_time() - begin


@way("asgiref: async_to_sync(sleep)(0) in a thread", "asgiref")
async def threads(count: int) -> float:
    asgiref = importlib.import_module("asgiref.sync")

    seconds: float = await asgiref.sync_to_async(
        lambda: repeated(lambda: asgiref.async_to_sync(asyncio.sleep)(0), count // 10)
    )()
    return seconds * 10


@way("run_coroutine_threadsafe(sleep(0)).result()")
async def threadsafe(count: int) -> float:
    loop = asyncio.get_running_loop()

    def wait() -> None:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()

    return await asyncio.to_thread(repeated, wait, count // 10) * 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--waits", type=int, default=WAITS)
    arguments = parser.parse_args()
    usable = {
        name: function
        for name, (needs, function) in ways.items()
        if importlib.util.find_spec(needs) is not None
    }
    seconds: dict[str, list[float]] = {name: [] for name in usable}
    for _ in range(arguments.rounds):
        for name, function in usable.items():
            seconds[name].append(hybridloop.run(function(arguments.waits)))
    rows = [
        [name, f"{statistics.median(taken) / arguments.waits * 1e6:.2f}"]
        for name, taken in seconds.items()
    ]
    sys.stdout.write("\n".join(table(["wait", "µs"], rows)) + "\n")


if __name__ == "__main__":
    main()
