"""The same application and the same client on several loops, in interleaved rounds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

from examples.demo import load
from examples.demo.progress import Progress
from examples.demo.server import serve

WARM_UP = 0.5
SERVER_START = 1.0


def compare(
    loops: Sequence[str], rounds: int, seconds: float, connections: int
) -> dict[str, list[load.Round]]:
    """Measure each loop once per round, in turn, so that a slow moment of the machine hits all."""
    results: dict[str, list[load.Round]] = {loop: [] for loop in loops}
    total = rounds * len(loops) * (SERVER_START + WARM_UP + seconds)
    with Progress(total) as progress:
        for number in range(rounds):
            # Each round starts with another loop: none is always first.
            shift = number % len(loops)
            for loop in (*loops[shift:], *loops[:shift]):
                progress.say(f"round {number + 1} of {rounds}: {loop}")
                with serve(loop) as server:
                    load.run(server.port, connections, WARM_UP)
                    results[loop].append(load.run(server.port, connections, seconds))
                    server.stop()
    return results


def table(results: dict[str, list[load.Round]]) -> str:
    """Medians over the rounds; the first loop is the measure of the others."""
    base_name, base_rounds = next(iter(results.items()))
    base = statistics.median(r.rate for r in base_rounds)
    width = max(len("loop"), *map(len, results))
    lines = [
        f"{'loop':<{width}}  requests/s  {'(lowest-highest)':>17}  "
        f"{'vs ' + base_name:>10}  {'p50 ms':>7}  {'p99 ms':>7}"
    ]
    for loop, rounds in results.items():
        rates = [r.rate for r in rounds]
        rate = statistics.median(rates)
        spread = f"({min(rates):,.0f}-{max(rates):,.0f})"
        p50 = statistics.median(r.percentile(0.50) for r in rounds)
        p99 = statistics.median(r.percentile(0.99) for r in rounds)
        lines.append(
            f"{loop:<{width}}  {rate:>10,.0f}  {spread:>17}  "
            f"{rate / base:>9.2f}x  {p50:>7.2f}  {p99:>7.2f}"
        )
    return "\n".join(lines)


def responses(results: dict[str, list[load.Round]]) -> int:
    return sum(len(r.latencies) for rounds in results.values() for r in rounds)


def caveat() -> str:
    return (
        f"Client and server shared {os.cpu_count()} CPUs of this machine, and uvicorn's own work "
        "in Python is most of each request: read this as a first impression. "
        "`make bench` measures the loops in depth."
    )
