"""Counts of active connections."""

from __future__ import annotations

import threading

_counting = threading.Lock()
_hogs = 0
# The threads that run a callback of a protocol.
in_callback: set[int] = set()


def active_hogs() -> int:
    """The number of connections that send without being asked, from `send_complete()`."""
    return _hogs


def active_io_loops() -> int:
    """The number of threads that run a callback of a protocol."""
    return len(in_callback)


def count_hogs(change: int) -> None:
    """Add to the number of hogs."""
    global _hogs
    with _counting:
        _hogs += change
