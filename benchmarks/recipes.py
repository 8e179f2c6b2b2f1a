"""How soon a loop goes on while the recipes of docs/recipes.md run beside it, each in three ways:
called by the loop itself (inline), by `run_in_executor()`, and as a kernel.

python -m benchmarks.recipes --recipes passwords,json_parts

A timer is due every millisecond, and its delay is measured; as many calls as there are processors
run all the time. The loop is hybridloop's in all ways. Ways take turns; each sample is a process of
its own.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.harness.arguments import choice_of
from benchmarks.harness.process import Unavailable, numbers_of
from benchmarks.harness.tables import table
from benchmarks.loops import SUBJECT, loop_factory

RECIPES = ["passwords", "compression", "json_parts", "tokenizer", "sorting"]
WAYS = ["inline", "executor", "kernel"]
IDLE = "idle"
WORKERS = os.cpu_count() or 1
INTERVAL = 0.001
TIMEOUT = 900.0

Call = Callable[[], Awaitable[object]]


def call_of(recipe: Any, way: str) -> Call:
    if way == "kernel":
        kernel: Call = recipe.kernel
        return kernel
    if way == "executor":
        pool = ThreadPoolExecutor(WORKERS)
        return lambda: asyncio.get_running_loop().run_in_executor(pool, recipe.plain)

    async def inline() -> None:
        recipe.plain()
        await asyncio.sleep(0)

    return inline


async def take_sample(name: str, way: str, seconds: float) -> dict[str, float]:
    recipe = importlib.import_module(f"examples.recipes.{name}")
    if hasattr(recipe, "prepare"):
        await recipe.prepare()
    calls, is_over = 0, False

    async def work(call: Call) -> None:
        nonlocal calls
        while not is_over:
            await call()
            calls += 1

    tasks = []
    if way != IDLE:
        call = call_of(recipe, way)
        await call()
        tasks = [asyncio.create_task(work(call)) for _ in range(WORKERS)]
    delays = []
    begin = time.perf_counter()
    while (now := time.perf_counter()) - begin < seconds:
        await asyncio.sleep(INTERVAL)
        delays.append(1e3 * (time.perf_counter() - now - INTERVAL))
    spent = time.perf_counter() - begin
    found = {"p99": percentile(delays, 0.99), "rate": calls / spent}
    is_over = True
    await asyncio.gather(*tasks)
    return found


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(recipes: list[str], repeats: int, seconds: float) -> None:
    samples: dict[tuple[str, str], list[dict[str, float]]] = {
        (recipe, way): [] for recipe in recipes for way in (IDLE, *WAYS)
    }
    for _ in range(repeats):
        for (recipe, way), taken in samples.items():
            options = ("--recipes", recipe, "--way", way, "--seconds", str(seconds))
            try:
                taken.append(numbers_of("benchmarks.recipes", *options, timeout=TIMEOUT))
            except Unavailable as error:
                sys.exit(f"{recipe}, {way}: {error}")

    def median(recipe: str, way: str, key: str) -> float:
        return statistics.median(one[key] for one in samples[recipe, way])

    print(
        f"99th percentile of the delay in ms, and calls per second; medians of {repeats} samples; "
        f"{WORKERS} processors:\n"
    )
    head = ["", *(f"p99 {way}" for way in (IDLE, *WAYS)), *(f"calls {way}" for way in WAYS)]
    body = [
        [
            recipe,
            *(f"{median(recipe, way, 'p99'):.1f}" for way in (IDLE, *WAYS)),
            *(f"{median(recipe, way, 'rate'):.0f}" for way in WAYS),
        ]
        for recipe in recipes
    ]
    print("\n".join(table(head, body)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", type=choice_of(RECIPES), default=RECIPES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--way", choices=[IDLE, *WAYS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        (recipe,) = arguments.recipes
        with asyncio.Runner(loop_factory=loop_factory(SUBJECT)) as runner:
            print(json.dumps(runner.run(take_sample(recipe, arguments.way, arguments.seconds))))
        return
    report(arguments.recipes, arguments.repeats, arguments.seconds)


if __name__ == "__main__":
    main()
