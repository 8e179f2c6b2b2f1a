"""Hash and sort some hundred MiB on two workers, beside the same on this machine.

python -m examples.cluster [--mib 256]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import sys
import time
from array import array
from collections.abc import AsyncIterable, Iterable

import hybridloop
from examples.cluster.processes import local_cluster
from hybridloop.cluster import connect

BLOCK = 4 << 20


class Bar:
    """A progress bar, if somebody looks at it."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.begin = time.perf_counter()

    def step(self) -> None:
        """One block more is done."""
        self.done += 1
        if sys.stdout.isatty():
            filled = "#" * (40 * self.done // self.total)
            print(f"\r{self.title:16} [{filled:40}]", end="", flush=True)

    def end(self) -> str:
        """Clear the bar; returns the time that has passed."""
        if sys.stdout.isatty():
            print("\r\033[K", end="")
        return f"{time.perf_counter() - self.begin:.2f} s"


async def collect(results: AsyncIterable[memoryview | hybridloop.NativeBuffer], bar: Bar) -> bytes:
    """A hash of all results, in order."""
    summary = hashlib.sha256()
    async for result in results:
        summary.update(result)
        bar.step()
    return summary.digest()


def make_blocks(mib: int) -> list[array[float]]:
    """Random numbers; each block is a shuffled copy of the same ones, which are made quickly."""
    numbers = random.Random(7)
    first = array("d", [numbers.random() for _ in range(BLOCK // 8)])
    blocks = []
    for _ in range(max(mib * (1 << 20) // BLOCK, 1)):
        cut = numbers.randrange(len(first))
        blocks.append(first[cut:] + first[:cut])
    return blocks


async def main(mib: int) -> None:
    print(f"making {mib} MiB of numbers, starting a scheduler and two workers")
    blocks: Iterable[array[float]] = make_blocks(mib)
    total = mib * (1 << 20) // BLOCK
    with local_cluster(workers=2, threads=1) as processes:
        async with (
            # No pings: on one machine TCP tells when a worker has ended.
            connect(processes.address, ping=None) as cluster,
            hybridloop.Engine(native_threads=2) as engine,
        ):
            while len(cluster.workers()) < 2:
                await asyncio.sleep(0.05)
            for kernel in ("hl.sha256", "hl.sort"):
                bar = Bar(f"{kernel}, cluster", total)
                there = await collect(cluster.map(kernel, blocks), bar)
                print(f"{kernel:10} {mib} MiB on two workers   {bar.end()}")
                bar = Bar(f"{kernel}, here", total)
                here = await collect(engine.map(kernel, blocks), bar)
                print(
                    f"{kernel:10} {mib} MiB on this machine  {bar.end()}, the same: {here == there}"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="how much data")
    hybridloop.run(main(parser.parse_args().mib))
