"""Coroutines handed to other threads: by Engine.spawn(), and by asyncio.run_coroutine_threadsafe()
to loops in threads of one's own.

python -m benchmarks.engine --loops asyncio,uvloop,hybridloop --tasks 100000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hybridloop
from benchmarks.harness.arguments import choice_of
from benchmarks.harness.process import Unavailable, numbers_of
from benchmarks.harness.tables import table
from benchmarks.loops import LOOPS, installed, loop_factory

ENGINE = "Engine.spawn"
THREADS = 2
# Tasks awaited one after the other.
ROUND_TRIPS = 5_000
TIMEOUT = 120.0

Hand = Callable[[Any], Any]


async def nothing() -> None:
    pass


@contextmanager
def spawning(tasks: int) -> Iterator[Hand]:
    """Give the `spawn()` of an engine."""
    with hybridloop.Engine(gil_threads=THREADS, tasks_per_thread=tasks) as engine:
        yield engine.spawn


@contextmanager
def running_threadsafe(loop: str) -> Iterator[Hand]:
    """Give what hands coroutines to loops in threads in turn."""
    factory = loop_factory(loop)
    loops = [factory() for _ in range(THREADS)]
    threads = [threading.Thread(target=loop.run_forever) for loop in loops]
    for thread in threads:
        thread.start()
    handed = 0

    def hand(coroutine: Any) -> Future[Any]:
        nonlocal handed
        handed += 1
        return asyncio.run_coroutine_threadsafe(coroutine, loops[handed % THREADS])

    try:
        yield hand
    finally:
        for each, thread in zip(loops, threads, strict=True):
            each.call_soon_threadsafe(each.stop)
            thread.join()
            each.close()


def many(hand: Hand, tasks: int) -> float:
    """CPU seconds for each of many tasks: handed over at a time, then asked for their results."""
    begin = time.process_time()
    handles = [hand(nothing()) for _ in range(tasks)]
    for handle in handles:
        handle.result(TIMEOUT)
    return (time.process_time() - begin) / tasks


def one_by_one(hand: Hand, wait: Callable[[Any], Awaitable[Any]]) -> float:
    """CPU seconds for each of the tasks that a loop hands over and awaits one after the other."""

    async def main() -> float:
        begin = time.process_time()
        for _ in range(ROUND_TRIPS):
            await wait(hand(nothing()))
        return (time.process_time() - begin) / ROUND_TRIPS

    return asyncio.run(main())


async def await_handle(handle: Any) -> None:
    await handle


def measure(way: str, tasks: int) -> dict[str, float]:
    """Measure a way in this process, after a first round that does not count."""
    wait: Callable[[Any], Awaitable[Any]] = await_handle if way == ENGINE else asyncio.wrap_future
    with spawning(tasks) if way == ENGINE else running_threadsafe(way) as hand:
        many(hand, tasks // 10)
        return {"many": many(hand, tasks), "one": one_by_one(hand, wait)}


def sample(way: str, tasks: int) -> dict[str, float]:
    """Measure a way in a process of its own."""
    arguments = ("--way", way, "--tasks", str(tasks))
    return numbers_of("benchmarks.engine", *arguments, timeout=TIMEOUT)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", type=choice_of(LOOPS), default=list(LOOPS))
    parser.add_argument("--tasks", type=int, default=100_000, help="tasks handed over at a time")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each way")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--way", choices=[ENGINE, *LOOPS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.tasks)))
        return
    loops, failures = installed(arguments.loops)
    samples: dict[str, list[dict[str, float]]] = {way: [] for way in [ENGINE, *loops]}
    for _ in range(arguments.rounds):
        for way, found in samples.items():
            if way not in failures:
                try:
                    found.append(sample(way, arguments.tasks))
                except Unavailable as error:
                    failures[way] = str(error)
    median = {
        way: {name: statistics.median(each[name] for each in found) for name in found[0]}
        for way, found in samples.items()
        if way not in failures
    }
    body = []
    for way, numbers in median.items():
        title = way if way == ENGINE else f"run_coroutine_threadsafe, {way}"
        cells = [f"{1e6 * numbers[name]:.1f}" for name in ("many", "one")]
        if ENGINE in median:
            cells.append(f"{median[ENGINE]['many'] / numbers['many']:.2f}")
        body.append([title, *cells])
    for way, reason in failures.items():
        body.append([way, f"n/a: {reason}", "", ""])
    count = f"{arguments.tasks:,}"
    print(f"CPU time for each no-op coroutine handed to {THREADS} threads, µs:\n")
    head = ["", f"{count} at a time", "one, awaited by a loop", f"{ENGINE} / this, {count}"]
    print("\n".join(table(head, body)))
    if arguments.json:
        arguments.json.write_text(json.dumps(samples, indent=2) + "\n")


if __name__ == "__main__":
    main()
