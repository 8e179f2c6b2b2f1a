"""Waiting in plain threads, and in callbacks of a loop, whose private method runs an iteration."""

from __future__ import annotations

import time
from collections.abc import Callable


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
