"""Waits of threads, one of which may be the main thread, where Python runs the handlers of signals.

A lock does not notice a signal that comes after Python's last look for one and before the lock has
gone to sleep: Ctrl-C would have no effect until it wakes up. So it sleeps for a second at most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

MAX_WAIT = 1.0


def wait(event: threading.Event, timeout: float | None) -> bool:
    """As `event.wait(timeout)`."""
    return any(event.wait(part) for part in _intervals(timeout))


def wait_for(
    condition: threading.Condition, predicate: Callable[[], bool], timeout: float | None
) -> bool:
    """As `condition.wait_for(predicate, timeout)`."""
    return any(condition.wait_for(predicate, part) for part in _intervals(timeout))


def _intervals(timeout: float | None) -> Iterator[float]:
    """How long to wait next, until the time is over; at least once."""
    if timeout is None:
        while True:
            yield MAX_WAIT
    deadline = time.monotonic() + timeout
    left = timeout
    while left > MAX_WAIT:
        yield MAX_WAIT
        left = deadline - time.monotonic()
    yield max(left, 0.0)
