"""How busy connections are."""

from __future__ import annotations

import threading

_counting = threading.Lock()
_hogs = 0
# Threads that are in a callback of a protocol.
in_callback: set[int] = set()


def active_hogs() -> int:
    """How many connections send without being asked: from `send_complete()`."""
    return _hogs


def active_io_loops() -> int:
    """How many threads are in a callback of a protocol now."""
    return len(in_callback)


def count_hogs(change: int) -> None:
    """There is one more, or one less."""
    global _hogs
    with _counting:
        _hogs += change
