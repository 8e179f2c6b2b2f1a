"""What it costs an ordinary function to wait: `await_()` beside greenback, SQLAlchemy, nest_asyncio
and asgiref.

python -m benchmarks.waiting --loops asyncio,hybridloop

Each sample is a process of its own, and samples take turns. CPU time of one wait, with that of
everything that makes it, as the coroutine; for many at a time, the time from the first to the last.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness.arguments import choice_of
from benchmarks.harness.process import Unavailable, numbers_of
from benchmarks.harness.tables import NONE, table
from benchmarks.loops import LOOPS, SUBJECT, installed, loop_factory
from benchmarks.memory import private_bytes

TIMEOUT = 120.0
WAITS = 5_000
SECONDS = 0.1

Way = Callable[[int], Awaitable[float]]
# Title → the package that it needs, the loops on which it can run, and the function.
WAYS: dict[str, tuple[str, set[str], Way]] = {}
EVERYWHERE = set(LOOPS)
SELECTOR = {"asyncio", SUBJECT}


def way(title: str, needs: str = "asyncio", on: set[str] = EVERYWHERE) -> Callable[[Way], Way]:
    """Register a coroutine function that waits so many times, and returns the seconds."""

    def register(function: Way) -> Way:
        WAYS[title] = (needs, on, function)
        return function

    return register


async def one_future() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(future.set_result, None)
    await future


def await_(awaitable: Awaitable[Any]) -> Any:
    """`hybridloop.await_()`, which `use_waiting_function()` puts here."""
    raise NotImplementedError


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


@way("await_(sleep(0))", "greenlet", SELECTOR)
async def own(count: int) -> float:
    return repeated(lambda: await_(asyncio.sleep(0)), count)


@way("await_() of a coroutine with one future", "greenlet", SELECTOR)
async def own_future(count: int) -> float:
    return repeated(lambda: await_(one_future()), count)


def below_python(depth: int, function: Callable[[], float]) -> float:
    return function() if depth == 0 else below_python(depth - 1, function)


def below_c(depth: int, function: Callable[[], float]) -> float:
    return function() if depth == 0 else next(map(below_c, [depth - 1], [function]))


@way("await_(sleep(0)) below 100 calls of Python", "greenlet", SELECTOR)
async def own_deep(count: int) -> float:
    return below_python(100, lambda: repeated(lambda: await_(asyncio.sleep(0)), count))


@way("await_(sleep(0)) below 20 calls of C", "greenlet", SELECTOR)
async def own_deep_in_c(count: int) -> float:
    return below_c(20, lambda: repeated(lambda: await_(asyncio.sleep(0)), count))


@way("the first await_(sleep(0)) of a task, with the task", "greenlet", SELECTOR)
async def first(count: int) -> float:
    async def waits() -> None:
        await_(asyncio.sleep(0))

    begin = time.process_time()
    await asyncio.gather(*(waits() for _ in range(count)))
    return time.process_time() - begin


@way("run_until_complete(sleep(0)), sync.nest()", "greenlet", {SUBJECT})
async def own_nested(count: int) -> float:
    from hybridloop import sync

    sync.nest()
    return runs_within(count)


@way("run_until_complete(sleep(0)), nest_asyncio", "nest_asyncio", SELECTOR)
async def nest_asyncio(count: int) -> float:
    importlib.import_module("nest_asyncio").apply()
    return runs_within(count)


def runs_within(count: int) -> float:
    loop = asyncio.get_running_loop()
    return repeated(lambda: loop.run_until_complete(asyncio.sleep(0)), count)


@way("greenback.await_(sleep(0))", "greenback")
async def greenback(count: int) -> float:
    import greenback

    await greenback.ensure_portal()
    return repeated(lambda: greenback.await_(asyncio.sleep(0)), count)


@way("await sleep(0), in a task with a portal of greenback", "greenback")
async def portal(count: int) -> float:
    import greenback

    await greenback.ensure_portal()
    return await plain(count)


@way("SQLAlchemy: await_only(sleep(0)) within greenlet_spawn()", "sqlalchemy")
async def spawned(count: int) -> float:
    from sqlalchemy.util import await_only, greenlet_spawn

    seconds: float = await greenlet_spawn(repeated, lambda: await_only(asyncio.sleep(0)), count)
    return seconds


@way("SQLAlchemy: greenlet_spawn() with one await_only(sleep(0))", "sqlalchemy")
async def spawn(count: int) -> float:
    from sqlalchemy.util import await_only, greenlet_spawn

    begin = time.process_time()
    for _ in range(count):
        await greenlet_spawn(lambda: await_only(asyncio.sleep(0)))
    return time.process_time() - begin


@way("asgiref: async_to_sync(sleep)(0) in a thread", "asgiref")
async def threads(count: int) -> float:
    asgiref = importlib.import_module("asgiref.sync")

    wait = partial(asgiref.async_to_sync(asyncio.sleep), 0)
    seconds: float = await asgiref.sync_to_async(repeated)(wait, count)
    return seconds


@way("run_coroutine_threadsafe(sleep(0)).result() in a thread")
async def threadsafe(count: int) -> float:
    loop = asyncio.get_running_loop()

    def wait() -> None:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()

    return await asyncio.to_thread(repeated, wait, count)


MANY = {"await": "asyncio", "await_()": "greenlet", "greenback.await_()": "greenback"}


async def many(kind: str, count: int) -> dict[str, float]:
    """Have so many tasks wait at the same time: milliseconds, and KiB for each."""
    if kind == "greenback.await_()":
        import greenback

        await greenback.ensure_portal()
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    async def waits(awaitable: Any) -> None:
        if kind == "await":
            await awaitable
            return
        if kind == "greenback.await_()":
            await greenback.ensure_portal()
            greenback.await_(awaitable)
        else:
            await_(awaitable)

    await asyncio.gather(*(waits(asyncio.sleep(0)) for _ in range(100)))
    before = private_bytes()
    tasks = [asyncio.create_task(waits(asyncio.shield(future))) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    memory = private_bytes() - before
    future.set_result(None)
    await asyncio.gather(*tasks)
    begin = time.perf_counter()
    await asyncio.gather(*(waits(asyncio.sleep(SECONDS)) for _ in range(count)))
    return {"ms": (time.perf_counter() - begin) * 1e3, "KiB": memory / count / 1024}


def use_waiting_function(loop: asyncio.AbstractEventLoop) -> None:
    """Prepare a loop before it runs, as programs do that import `await_` at their beginning."""
    global await_
    from hybridloop import await_ as function
    from hybridloop import sync

    sync.prepare(loop)
    await_ = function


def take_sample(loop: str, title: str, waits: int) -> dict[str, float]:
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        if "greenlet" in (MANY.get(title), *WAYS.get(title, ())[:1]):
            use_waiting_function(runner.get_loop())
        if title in MANY:
            return runner.run(many(title, waits))
        function = WAYS[title][2]

        async def measure() -> dict[str, float]:
            await function(waits // 10)
            return {"µs": await function(waits) / waits * 1e6}

        return runner.run(measure())


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class Samples:
    """Samples of ways on loops."""

    def __init__(self, loops: list[str], waits: int) -> None:
        self.waits = waits
        self.cells: dict[tuple[str, str], list[dict[str, float]]] = {}
        self.failures: dict[tuple[str, str], str] = {}
        ways = {title: (needs, on) for title, (needs, on, _) in WAYS.items()}
        for kind, needs in MANY.items():
            ways[kind] = (needs, SELECTOR if needs == "greenlet" else EVERYWHERE)
        for title, (needs, on) in ways.items():
            if is_installed(needs):
                self.cells |= {(title, loop): [] for loop in loops if loop in on}

    def take(self) -> None:
        for (title, loop), found in self.cells.items():
            if (title, loop) in self.failures:
                continue
            try:
                arguments = ("--sample", loop, title, "--waits", str(self.waits))
                found.append(numbers_of("benchmarks.waiting", *arguments, timeout=TIMEOUT))
            except Unavailable as error:
                self.failures[title, loop] = str(error)

    def cell(self, title: str, loop: str, unit: str) -> str:
        values = [each[unit] for each in self.cells.get((title, loop), [])]
        if not values or (title, loop) in self.failures:
            return NONE
        return f"{statistics.median(values):.2f} ({min(values):.2f}..{max(values):.2f})"


def report(samples: Samples, loops: list[str], rounds: int) -> None:
    print(f"CPU time of a wait, µs, medians of {rounds} samples and their range:\n")
    titles = {title for title, _ in samples.cells}
    body = [
        [title, *(samples.cell(title, loop, "µs") for loop in loops)]
        for title in WAYS
        if title in titles
    ]
    print("\n".join(table(["", *loops], body)))
    captions = {
        "ms": f"{samples.waits:,} tasks wait {SECONDS} s at the same time, ms until all are done",
        "KiB": f"Memory of each of {samples.waits:,} tasks that wait, KiB",
    }
    for unit, caption in captions.items():
        body = [
            [title, *(samples.cell(title, loop, unit) for loop in loops)]
            for title in MANY
            if title in titles
        ]
        print(f"\n{caption}:\n")
        print("\n".join(table(["", *loops], body)))
    for (title, loop), reason in samples.failures.items():
        print(f"\n{title} on {loop}: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", type=choice_of(LOOPS), default=list(LOOPS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--waits", type=int, default=WAITS)
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--sample", nargs=2, metavar=("LOOP", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sample:
        loop, title = arguments.sample
        print(json.dumps(take_sample(loop, title, arguments.waits)))
        return
    loops, missing = installed(arguments.loops)
    for name, reason in missing.items():
        print(f"{name} was skipped: {reason}", file=sys.stderr)
    samples = Samples(loops, arguments.waits)
    for _ in range(arguments.rounds):
        samples.take()
    report(samples, loops, arguments.rounds)
    if arguments.json:
        cells = {f"{title}, {loop}": found for (title, loop), found in samples.cells.items()}
        arguments.json.write_text(json.dumps(cells, indent=2) + "\n")


if __name__ == "__main__":
    main()
