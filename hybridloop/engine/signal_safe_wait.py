"""Blocking waits that do not miss signals such as Ctrl-C.

Python runs signal handlers in the main thread. A signal that arrives after Python's last check and
before a lock blocks is not noticed until the lock wakes up. So a wait blocks for at most a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

MAX_WAIT = 1.0


def wait(event: threading.Event, timeout: float | None) -> bool:
    """Like `event.wait(timeout)`."""
    return any(event.wait(part) for part in _intervals(timeout))


def wait_for(
    condition: threading.Condition, predicate: Callable[[], bool], timeout: float | None
) -> bool:
    """Like `condition.wait_for(predicate, timeout)`."""
    return any(condition.wait_for(predicate, part) for part in _intervals(timeout))


def _intervals(timeout: float | None) -> Iterator[float]:
    """The timeouts of the single waits; at least one."""
    if timeout is None:
        while True:
            yield MAX_WAIT
    deadline = time.monotonic() + timeout
    left = timeout
    while left > MAX_WAIT:
        yield MAX_WAIT
        left = deadline - time.monotonic()
    yield max(left, 0.0)
