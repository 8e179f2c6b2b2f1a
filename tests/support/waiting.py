"""Waiting in plain threads, and in callbacks of a loop, whose private method runs an iteration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from unittest import mock


def until(condition: Callable[[], object], seconds: float = 100) -> None:
    """Block the thread until a condition holds; fail after some time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(0.002)


def iterate_until(loop, condition: Callable[[], object], seconds: float = 100) -> None:
    """Run iterations of the loop within a callback until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        tick = loop.call_later(0.001, lambda: None)
        loop._run_once()
        tick.cancel()


async def iterations_of_a_rest(loop, seconds: float = 0.1) -> int:
    """How many iterations the loop does while nothing happens: a loop that spins does thousands."""
    if not hasattr(loop, "stats"):
        with mock.patch.object(loop, "_run_once", wraps=loop._run_once) as run_once:
            await asyncio.sleep(seconds)
        return run_once.call_count
    before = loop.stats().iterations
    await asyncio.sleep(seconds)
    return loop.stats().iterations - before
