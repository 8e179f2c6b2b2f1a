"""What the tests of native jobs share."""

import asyncio
import time

import uvloop

import hybridloop
from hybridloop._core import NativeEngine

LIMIT = 100.0
LOOPS = {
    "hybridloop": hybridloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


def run(main, factory=hybridloop.new_event_loop):
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(asyncio.wait_for(main, LIMIT))


async def until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def open_gate_without_a_loop():
    engine = NativeEngine(native_threads=1)
    engine.run_native("jobs.set_gate", 1).result(LIMIT)
    engine.close(LIMIT)


async def open_gate():
    engine = NativeEngine(native_threads=1)
    await engine.run_native("jobs.set_gate", 1)
    engine.close(LIMIT)
