"""Work on other threads: `run_native()` beside each loop's `run_in_executor()`, in time.

python -m benchmarks.native --loops asyncio,uvloop,hybridloop

All do nothing, or next to nothing: the round trip is measured. Loops are measured alternately,
and each sample is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.harness.arguments import choice_of
from benchmarks.harness.process import Unavailable, numbers_of
from benchmarks.harness.tables import NONE, table
from benchmarks.loops import LOOPS, SUBJECT, installed, loop_factory

WORKERS = os.cpu_count() or 1
TIMEOUT = 120.0
SAMPLE_SECONDS = 0.3
MEBIBYTE = 1 << 20

Run = Callable[[], Awaitable[object]]


async def each(futures: list[Awaitable[object]]) -> None:
    for future in futures:
        await future


def nothing(*args: object) -> None:
    pass


def executor_rows(loop: asyncio.AbstractEventLoop) -> dict[str, tuple[Run, int]]:
    """What one call of each row does, and how many jobs that are."""
    loop.set_default_executor(ThreadPoolExecutor(WORKERS))

    def gather(count: int) -> Run:
        def run() -> Awaitable[object]:
            return asyncio.gather(*[loop.run_in_executor(None, nothing) for _ in range(count)])

        return run

    def pipeline(count: int) -> Run:
        return lambda: each([loop.run_in_executor(None, nothing) for _ in range(count)])

    def one(size: int) -> Run:
        data = bytearray(size)
        return lambda: loop.run_in_executor(None, nothing, data)

    return {
        "trip": (lambda: loop.run_in_executor(None, nothing), 1),
        "each-64": (pipeline(64), 64),
        "each-1000": (pipeline(1000), 1000),
        "gather-64": (gather(64), 64),
        "batch-1000": (pipeline(1000), 1000),
        "argument-64": (one(64), 1),
        "argument-1Mi": (one(MEBIBYTE), 1),
    }


def native_rows(loop: asyncio.AbstractEventLoop) -> dict[str, tuple[Run, int]]:
    import hybridloop

    assert isinstance(loop, hybridloop.Loop)
    # It looks at no byte: none is asked for.
    touch = hybridloop.register_kernel(
        "benchmarks.touch", (None, "strnlen"), "usize(const void*, usize)"
    )

    def gather(count: int) -> Run:
        def run() -> Awaitable[object]:
            return asyncio.gather(*[loop.run_native(noop) for _ in range(count)])

        return run

    def pipeline(count: int) -> Run:
        return lambda: each([loop.run_native(noop) for _ in range(count)])

    def one(size: int) -> Run:
        data = bytearray(size)
        return lambda: loop.run_native(touch, data, 0)

    noop = hybridloop.kernels["hl.noop"]
    calls = [()] * 1000
    return {
        "trip": (lambda: loop.run_native(noop), 1),
        "each-64": (pipeline(64), 64),
        "each-1000": (pipeline(1000), 1000),
        "gather-64": (gather(64), 64),
        "batch-1000": (lambda: loop.run_native_many(noop, calls), 1000),
        "argument-64": (one(64), 1),
        "argument-1Mi": (one(MEBIBYTE), 1),
    }


async def time_rows(native: bool) -> dict[str, float]:
    """Nanoseconds per job of each row."""
    loop = asyncio.get_running_loop()
    rows = native_rows(loop) if native else executor_rows(loop)
    found = {}
    for name, (run, jobs) in rows.items():
        for _ in range(20):
            await run()
        done, begin = 0, time.perf_counter()
        while (spent := time.perf_counter() - begin) < SAMPLE_SECONDS:
            for _ in range(10):
                await run()
            done += 10 * jobs
        found[name] = spent / done * 1e9
    return found


def sample(*arguments: str) -> dict[str, float]:
    try:
        return numbers_of("benchmarks.native", "--sample", *arguments, timeout=TIMEOUT)
    except Unavailable as error:
        sys.exit(str(error))


def take_sample(arguments: list[str]) -> dict[str, float]:
    loop, kind = arguments
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        return runner.run(time_rows(kind == "native"))


TITLES = {
    "trip": "one at a time",
    "each-64": "64 submitted, each awaited",
    "each-1000": "1000 submitted, each awaited",
    "gather-64": "64 by gather()",
    "batch-1000": "1000 by run_native_many()",
    "argument-64": "one at a time, an argument of 64 bytes",
    "argument-1Mi": "one at a time, an argument of 1 MiB",
}


def report(loops: list[str], repeats: int) -> None:
    columns = [f"{loop} executor" for loop in loops]
    sources = [(loop, "executor") for loop in loops]
    if SUBJECT in loops:
        columns.append("run_native")
        sources.append((SUBJECT, "native"))
    samples: dict[str, list[dict[str, float]]] = {column: [] for column in columns}
    for _ in range(repeats):
        for column, source in zip(columns, sources, strict=True):
            samples[column].append(sample(*source))
    # The shortest: what another program takes from this one makes samples longer, never shorter.
    best = {
        column: {row: min(one[row] for one in taken) / 1e3 for row in TITLES}
        for column, taken in samples.items()
    }
    print(f"Time per job, µs, the shortest of {repeats} samples; {WORKERS} workers:\n")
    factor = "best executor / run_native"
    body = []
    for row, title in TITLES.items():
        cells = [f"{best[column][row]:.2f}" for column in columns]
        peers = min(best[column][row] for column in columns if column != "run_native")
        own = best.get("run_native", {}).get(row)
        body.append([title, *cells, f"{peers / own:.1f}" if own else NONE])
    print("\n".join(table(["", *columns, factor], body)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare run_native() with run_in_executor().")
    parser.add_argument("--loops", type=choice_of(LOOPS), default=list(LOOPS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sample", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sample:
        print(json.dumps(take_sample(arguments.sample)))
        return
    usable, missing = installed(arguments.loops)
    for name, reason in missing.items():
        print(f"{name} was skipped: {reason}", file=sys.stderr)
    report(usable, arguments.repeats)


if __name__ == "__main__":
    main()
