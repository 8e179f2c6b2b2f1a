"""How long light requests take while heavy ones run: native, in an executor, on the loop."""

from __future__ import annotations

import heapq
import selectors
import time
from dataclasses import dataclass

from examples.demo import app, load
from examples.demo.progress import Progress
from examples.demo.server import serve

HEAVY = 2
LIGHT = 4
PAUSE = 0.005
"""Seconds between a light response and the next light request of its connection."""

WARM_UP = 0.5
SERVER_START = 1.0

WAYS = {
    "native": 'await loop.run_native("hl.sort", numbers)',
    "executor": "await loop.run_in_executor(None, median)",
    "blocking": "median(), in the coroutine",
}

NOTE = (
    "sorted() holds Python's lock, so a thread of an executor keeps the loop waiting with it; a "
    "native kernel does not need the lock. Functions that release it, such as those of zlib and "
    "hashlib, do no harm in an executor either."
)


@dataclass
class Measured:
    """The latencies of light requests, and how many heavy ones ended per second."""

    light: load.Round
    heavy_rate: float


def compare(seconds: float) -> dict[str, Measured]:
    results: dict[str, Measured] = {}
    with (
        Progress(SERVER_START + len(WAYS) * (WARM_UP + seconds)) as progress,
        serve("hybridloop") as server,
    ):
        for way in WAYS:
            progress.say(f"heavy requests: {way}")
            run(server.port, way, WARM_UP)
            results[way] = run(server.port, way, seconds)
        server.stop()
    return results


def run(port: int, way: str, seconds: float) -> Measured:
    """Keep the heavy connections busy, and send light requests at a pace meanwhile."""
    expected = app.median()
    heavy = [load.Connection(port, n, [load.get(f"/median/{way}", expected)]) for n in range(HEAVY)]
    light = [load.Connection(port, n, [load.get("/", app.TEXT)]) for n in range(LIGHT)]
    clients = [*heavy, *light]
    latencies: list[int] = []
    heavy_done = 0
    try:
        with selectors.DefaultSelector() as selector:
            for index, client in enumerate(clients):
                selector.register(client.socket, selectors.EVENT_READ, index)
            started = time.perf_counter()
            deadline = started + seconds
            for client in heavy:
                client.send()
            waiting = [(started + PAUSE * n / LIGHT, HEAVY + n) for n in range(LIGHT)]
            heapq.heapify(waiting)
            outstanding = HEAVY
            while outstanding or time.perf_counter() < deadline:
                now = time.perf_counter()
                while waiting and waiting[0][0] <= now < deadline:
                    clients[heapq.heappop(waiting)[1]].send()
                    outstanding += 1
                timeout = load.DRAIN_TIMEOUT
                if now < deadline:
                    timeout = max(0.0, min([deadline, *(at for at, _ in waiting[:1])]) - now)
                events = selector.select(timeout)
                if not events and now >= deadline:
                    raise load.WrongResponse(
                        f"{outstanding} responses did not come within {load.DRAIN_TIMEOUT:.0f} s"
                    )
                for key, _ in events:
                    index = key.data
                    latency = clients[index].receive()
                    if latency is None:
                        continue
                    outstanding -= 1
                    if index >= HEAVY:
                        latencies.append(latency)
                        heapq.heappush(waiting, (time.perf_counter() + PAUSE, index))
                        continue
                    heavy_done += 1
                    if time.perf_counter() < deadline:
                        clients[index].send()
                        outstanding += 1
            took = time.perf_counter() - started
    finally:
        for client in clients:
            client.socket.close()
    latencies.sort()
    return Measured(load.Round(took, latencies), heavy_done / took)


def table(results: dict[str, Measured]) -> str:
    width = max(map(len, WAYS.values()))
    lines = [
        f"{'the heavy requests run':<{width}}  {'light p50 ms':>12}  {'p99 ms':>7}  {'worst':>7}  "
        f"{'heavy/s':>8}"
    ]
    for way, measured in results.items():
        light = measured.light
        lines.append(
            f"{WAYS[way]:<{width}}  {light.percentile(0.50):>12.2f}  "
            f"{light.percentile(0.99):>7.2f}  {light.percentile(1.0):>7.2f}  "
            f"{measured.heavy_rate:>8.0f}"
        )
    return "\n".join(lines)
