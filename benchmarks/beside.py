"""How soon a loop answers while threads compute beside it: a hash of 16 MiB at a time on as many
workers as there are processors, by `run_native()` and by each loop's `run_in_executor()`.

python -m benchmarks.beside --loops asyncio,uvloop,hybridloop

Neither hash holds the interpreter. A client in a process of its own sends 1 KiB every millisecond
and shares the processors with the workers. Ways take turns; each sample is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from benchmarks.harness.arguments import choice_of
from benchmarks.harness.process import Unavailable, numbers_of
from benchmarks.harness.tables import table
from benchmarks.harness.tools import rust_binary
from benchmarks.loops import LOOPS, SUBJECT, installed, loop_factory

WORKERS = os.cpu_count() or 1
NATIVE = "run_native"
SIZE = 16 << 20
SECONDS = 1.0
THINK_US = 1000
TIMEOUT = 120.0

Start = Callable[[], Awaitable[object]]


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def work_of(way: str, loop: asyncio.AbstractEventLoop) -> Start:
    data = bytes(SIZE)
    if way == NATIVE:
        import hybridloop

        assert isinstance(loop, hybridloop.Loop)
        return lambda: loop.run_native("hl.sha256", data)
    pool = ThreadPoolExecutor(WORKERS)
    return lambda: loop.run_in_executor(pool, hashlib.sha256, data)


async def ask(port: int) -> dict[str, float]:
    """Have a client send messages for a while; its latencies in nanoseconds."""
    process = await asyncio.create_subprocess_exec(
        str(rust_binary("loadgen")),
        f"tcp:127.0.0.1:{port}",
        *("--think-us", str(THINK_US), "--seconds", str(SECONDS), "--warmup", "50"),
        stdout=subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise Unavailable(f"the client ended with {process.returncode}")
    latency: dict[str, float] = json.loads(output)["latency_ns"]
    return latency


async def take_sample(way: str) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    start = work_of(way, loop)
    await asyncio.gather(*[start() for _ in range(WORKERS)])
    begin = time.perf_counter()
    for _ in range(5):
        await start()
    alone = (time.perf_counter() - begin) / 5
    async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        idle = await ask(port)
        done, is_over = 0, False

        async def work() -> None:
            nonlocal done
            while not is_over:
                await start()
                done += 1

        begin = time.perf_counter()
        tasks = [loop.create_task(work()) for _ in range(2 * WORKERS)]
        busy = await ask(port)
        is_over = True
        await asyncio.gather(*tasks)
        spent = time.perf_counter() - begin
    return {
        "idle p50": idle["p50"] / 1e3,
        "idle p99": idle["p99"] / 1e3,
        "busy p50": busy["p50"] / 1e3,
        "busy p99": busy["p99"] / 1e3,
        "work": spent * WORKERS / (done * alone),
    }


def report(ways: list[str], repeats: int) -> None:
    rust_binary("loadgen")  # builds it, if need be
    samples: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, taken in samples.items():
            try:
                taken.append(numbers_of("benchmarks.beside", "--way", way, timeout=TIMEOUT))
            except Unavailable as error:
                sys.exit(f"{way}: {error}")
    print(f"Latency in µs, medians of {repeats} samples and their range; {WORKERS} workers:\n")
    body = []
    for way, taken in samples.items():
        cells = [way if way == NATIVE else f"{way} executor"]
        for name in ("idle p50", "idle p99", "busy p50", "busy p99"):
            values = [one[name] for one in taken]
            cells.append(f"{statistics.median(values):.0f} ({min(values):.0f}..{max(values):.0f})")
        factors = [one["busy p99"] / one["idle p99"] for one in taken]
        cells.append(f"{statistics.median(factors):.1f} ({min(factors):.1f}..{max(factors):.1f})")
        cells.append(f"{statistics.median(one['work'] for one in taken):.2f}")
        body.append(cells)
    head = ["", "idle p50", "idle p99", "busy p50", "busy p99", "p99 busy / idle", "work"]
    print("\n".join(table(head, body)))
    print("\nwork: time of the hashes, relative to that of as many without the echo / workers.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", type=choice_of(LOOPS), default=list(LOOPS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--way", choices=[NATIVE, *LOOPS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        loop = SUBJECT if arguments.way == NATIVE else arguments.way
        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
            print(json.dumps(runner.run(take_sample(arguments.way))))
        return
    usable, missing = installed(arguments.loops)
    for name, reason in missing.items():
        print(f"{name} was skipped: {reason}", file=sys.stderr)
    report([*usable, *([NATIVE] if SUBJECT in usable else [])], arguments.repeats)


if __name__ == "__main__":
    main()
