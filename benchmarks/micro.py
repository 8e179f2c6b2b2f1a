"""Micro-benchmarks: ``python -m benchmarks.micro CASE --loop NAME`` prints its figures.

Each case does a fixed number of operations per round and times them in CPU time of the whole
process; where the time that passes matters, it measures that as well. Cases whose work has a result
check it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import json
import random
import resource
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.loops import LOOPS, LoopFactory, loop_factory

BATCH = 100_000
PER_TURN = 100


# Until the loop sleeps again.
PAUSE = 0.0005


@dataclass(frozen=True)
class Round:
    """What one round took: CPU time, and what passed meanwhile, where a case measures it."""

    cpu_ns: int
    seconds: float | None = None
    latencies_ns: Sequence[int] = ()


@dataclass(frozen=True)
class Micro:
    """A case: ``run(factory, operations)`` does one round."""

    run: Callable[[LoopFactory, int], Round]
    operations: int
    title: str


# What a case returns: a round, or its CPU nanoseconds.
Taken = Round | int


def round_of(taken: Taken) -> Round:
    return taken if isinstance(taken, Round) else Round(taken)


CASES: dict[str, Micro] = {}


def on_loop(
    name: str, operations: int, title: str
) -> Callable[[Callable[[asyncio.AbstractEventLoop, int], Taken]], None]:
    """Register a case that drives a loop by itself."""

    def register(case: Callable[[asyncio.AbstractEventLoop, int], Taken]) -> None:
        loops: dict[LoopFactory, asyncio.AbstractEventLoop] = {}

        def run(factory: LoopFactory, count: int) -> Round:
            loop = loops.get(factory) or loops.setdefault(factory, factory())
            return round_of(case(loop, count))

        CASES[name] = Micro(run, operations, title)

    return register


def in_task(
    name: str, operations: int, title: str
) -> Callable[[Callable[[int], Coroutine[Any, Any, Taken]]], None]:
    """Register a case that is a coroutine."""

    def register(case: Callable[[int], Coroutine[Any, Any, Taken]]) -> None:
        def on(loop: asyncio.AbstractEventLoop, count: int) -> Taken:
            return loop.run_until_complete(case(count))

        on_loop(name, operations, title)(on)

    return register


def timed_run(loop: asyncio.AbstractEventLoop) -> int:
    begin = time.process_time_ns()
    loop.run_forever()
    return time.process_time_ns() - begin


def nothing(*args: object) -> None:
    pass


class Counter:
    """A callback that stops the loop when it has been called ``count`` times."""

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int):
        self.loop = loop
        self.left = count

    def tick(self) -> None:
        self.left -= 1
        if not self.left:
            self.loop.stop()


@on_loop("call_soon-chain", BATCH, "call_soon chain")
def call_soon_chain(loop: asyncio.AbstractEventLoop, count: int) -> int:
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            loop.stop()

    loop.call_soon(step)
    return timed_run(loop)


@on_loop("call_soon-fanout", BATCH, "call_soon fan-out of 100k")
def call_soon_fanout(loop: asyncio.AbstractEventLoop, count: int) -> int:
    begin = time.process_time_ns()
    for _ in range(count):
        loop.call_soon(nothing)
    loop.call_soon(loop.stop)
    loop.run_forever()
    return time.process_time_ns() - begin


@on_loop("call_soon-args-context", BATCH, "call_soon, 3 args + context")
def call_soon_args_context(loop: asyncio.AbstractEventLoop, count: int) -> int:
    context = contextvars.copy_context()
    begin = time.process_time_ns()
    for _ in range(count):
        loop.call_soon(nothing, 1, 2, 3, context=context)
    loop.call_soon(loop.stop)
    loop.run_forever()
    return time.process_time_ns() - begin


@on_loop("call_later-cancel", BATCH, "call_later + cancel")
def call_later_cancel(loop: asyncio.AbstractEventLoop, count: int) -> int:
    left = count

    def step() -> None:
        nonlocal left
        for _ in range(PER_TURN):
            loop.call_later(60, nothing).cancel()
        left -= PER_TURN
        if left > 0:
            loop.call_soon(step)
        else:
            loop.stop()

    loop.call_soon(step)
    return timed_run(loop)


@on_loop("bulk-cancel", BATCH, "bulk cancel: 100k timers made, then cancelled")
def bulk_cancel(loop: asyncio.AbstractEventLoop, count: int) -> int:
    begin = time.process_time_ns()
    handles = [loop.call_later(60 + index * 1e-3, nothing) for index in range(count)]
    for handle in handles:
        handle.cancel()
    del handles, handle
    loop.call_soon(loop.stop)
    loop.run_forever()
    return time.process_time_ns() - begin


@on_loop("timers-due", BATCH, "100k timers made and due")
def timers_due(loop: asyncio.AbstractEventLoop, count: int) -> int:
    # Less time than making them takes, so that all are due when the loop runs.
    uniform = random.Random(1).uniform
    delays = [uniform(0, 0.01) for _ in range(count)]
    counter = Counter(loop, count)
    begin = time.process_time_ns()
    for delay in delays:
        loop.call_later(delay, counter.tick)
    loop.run_forever()
    return time.process_time_ns() - begin


@on_loop("threadsafe-own", BATCH, "call_soon_threadsafe from the loop's thread")
def threadsafe_own(loop: asyncio.AbstractEventLoop, count: int) -> int:
    begin = time.process_time_ns()
    for _ in range(count):
        loop.call_soon_threadsafe(nothing)
    loop.call_soon_threadsafe(loop.stop)
    loop.run_forever()
    return time.process_time_ns() - begin


@on_loop("threadsafe-other", BATCH, "call_soon_threadsafe from another thread")
def threadsafe_other(loop: asyncio.AbstractEventLoop, count: int) -> Round:
    counter = Counter(loop, count)

    def schedule() -> None:
        for _ in range(count):
            loop.call_soon_threadsafe(counter.tick)

    thread = threading.Thread(target=schedule)
    loop.call_soon(thread.start)
    begin = time.perf_counter()
    taken = timed_run(loop)
    seconds = time.perf_counter() - begin
    thread.join()
    return Round(taken, seconds)


@on_loop("wake-up", 300, "wake-up of a sleeping loop by a thread")
def wake_up(loop: asyncio.AbstractEventLoop, count: int) -> Round:
    latencies: list[int] = []
    woken = threading.Event()

    def arrive(sent: int) -> None:
        latencies.append(time.perf_counter_ns() - sent)
        woken.set()

    def wake() -> None:
        for _ in range(count):
            time.sleep(PAUSE)
            loop.call_soon_threadsafe(arrive, time.perf_counter_ns())
            woken.wait()
            woken.clear()
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=wake)
    loop.call_soon(thread.start)
    taken = timed_run(loop)
    thread.join()
    return Round(taken, latencies_ns=latencies)


@in_task("sleep0", BATCH, "task: sleep(0)")
async def sleep0(count: int) -> int:
    begin = time.process_time_ns()
    for _ in range(count):
        await asyncio.sleep(0)
    return time.process_time_ns() - begin


@in_task("queue-pingpong", 20_000, "Queue ping-pong between two tasks, round trip")
async def queue_pingpong(count: int) -> int:
    there: asyncio.Queue[int] = asyncio.Queue()
    back: asyncio.Queue[int] = asyncio.Queue()

    async def reflect() -> None:
        for _ in range(count):
            await back.put(await there.get())

    task = asyncio.create_task(reflect())
    begin = time.process_time_ns()
    for index in range(count):
        await there.put(index)
        if await back.get() != index:
            raise AssertionError("the queue lost an item")
    taken = time.process_time_ns() - begin
    await task
    return taken


@in_task("future-resolve", 50_000, "future resolved by call_soon and awaited")
async def future_resolve(count: int) -> int:
    loop = asyncio.get_running_loop()
    begin = time.process_time_ns()
    for index in range(count):
        future = loop.create_future()
        loop.call_soon(future.set_result, index)
        if await future != index:
            raise AssertionError("the future has another result")
    return time.process_time_ns() - begin


@in_task("create_task-await", 50_000, "create_task + await")
async def create_task_await(count: int) -> int:
    loop = asyncio.get_running_loop()

    async def child(value: int) -> int:
        return value

    begin = time.process_time_ns()
    for index in range(count):
        if await loop.create_task(child(index)) != index:
            raise AssertionError("the task has another result")
    return time.process_time_ns() - begin


@in_task("gather", 10_000, "gather of 10k")
async def gather(count: int) -> int:
    async def child(value: int) -> int:
        return value

    begin = time.process_time_ns()
    results = await asyncio.gather(*map(child, range(count)))
    taken = time.process_time_ns() - begin
    if results != list(range(count)):
        raise AssertionError("gather has other results")
    return taken


def create_close(factory: LoopFactory, count: int) -> Round:
    begin = time.process_time_ns()
    for _ in range(count):
        factory().close()
    return Round(time.process_time_ns() - begin)


CASES["create-close"] = Micro(create_close, 200, "loop create + close")


@on_loop("run_until_complete", 10_000, "run_until_complete of a trivial coroutine")
def run_until_complete(loop: asyncio.AbstractEventLoop, count: int) -> int:
    async def trivial() -> int:
        return 7

    begin = time.process_time_ns()
    for _ in range(count):
        if loop.run_until_complete(trivial()) != 7:
            raise AssertionError("run_until_complete has another result")
    return time.process_time_ns() - begin


@on_loop("add_reader-pingpong", 20_000, "add_reader: round trip of a byte over a socket pair")
def add_reader_pingpong(loop: asyncio.AbstractEventLoop, count: int) -> int:
    near, far = socket.socketpair()
    counter = Counter(loop, count)

    def reflect() -> None:
        far.send(far.recv(1))

    def again() -> None:
        near.recv(1)
        counter.tick()
        if counter.left:
            near.send(b"x")

    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        loop.add_reader(near.fileno(), again)
        loop.add_reader(far.fileno(), reflect)
        near.send(b"x")
        taken = timed_run(loop)
        loop.remove_reader(near.fileno())
        loop.remove_reader(far.fileno())
    return taken


@in_task("run_in_executor", 5_000, "run_in_executor of a function that does nothing")
async def run_in_executor(count: int) -> int:
    loop = asyncio.get_running_loop()
    begin = time.process_time_ns()
    for _ in range(count):
        await loop.run_in_executor(None, nothing)
    return time.process_time_ns() - begin


@in_task("run_native", 5_000, "run_native of the checksum of a byte")
async def run_native(count: int) -> int:
    # Not at the top: the other cases measure other loops without it.
    import hybridloop

    begin = time.process_time_ns()
    for _ in range(count):
        if await hybridloop.run_native("hl.crc32", b"x") != 0x8CDC1683:
            raise AssertionError("the checksum is wrong")
    return time.process_time_ns() - begin


@in_task("getaddrinfo", 2_000, "getaddrinfo of 127.0.0.1")
async def getaddrinfo(count: int) -> int:
    loop = asyncio.get_running_loop()
    begin = time.process_time_ns()
    for _ in range(count):
        found = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        if found[0][4] != ("127.0.0.1", 80):
            raise AssertionError(f"getaddrinfo found {found}")
    return time.process_time_ns() - begin


@in_task("subprocess", 50, "subprocess: spawn true and wait, the parent's own time")
async def spawn(count: int) -> Round:
    program = shutil.which("true")
    if program is None:
        raise FileNotFoundError("true")
    begin, start = time.process_time_ns(), time.perf_counter()
    for _ in range(count):
        process = await asyncio.create_subprocess_exec(program)
        if await process.wait():
            raise AssertionError("true failed")
    return Round(time.process_time_ns() - begin, time.perf_counter() - start)


def figures(rounds: Sequence[Round], count: int) -> dict[str, float]:
    """Return the figures of a sample: medians over its rounds, quantiles over all latencies."""
    found = {"cpu_ns": statistics.median(taken.cpu_ns for taken in rounds) / count}
    seconds = [taken.seconds for taken in rounds if taken.seconds is not None]
    if seconds:
        found["per_second"] = count / statistics.median(seconds)
    latencies = [latency for taken in rounds for latency in taken.latencies_ns]
    if latencies:
        percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
        found |= {"p50_us": percentiles[49] / 1e3, "p99_us": percentiles[98] / 1e3}
    return found


def measure(name: str, loop: str, rounds: int, operations: int | None = None) -> dict[str, float]:
    """Return the figures of a case, from the rounds after a first one."""
    case = CASES[name]
    count = operations or case.operations
    factory = loop_factory(loop)
    case.run(factory, count)
    return figures([case.run(factory, count) for _ in range(rounds)], count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--loop", choices=LOOPS, default="asyncio")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--operations", type=int, help="per round; default: the case's own")
    arguments = parser.parse_args()
    # Some loops leak file descriptors when closed, and create-close makes many loops.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    taken = measure(arguments.case, arguments.loop, arguments.rounds, arguments.operations)
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
