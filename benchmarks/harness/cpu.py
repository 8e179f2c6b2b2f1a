"""CPU time and CPU affinity of processes (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cpu_ns(pid: int) -> int:
    """Return the CPU time, user and system, of all threads of a process, in nanoseconds.

    Exact while the process sleeps; of a running one it may lag by a scheduler tick.
    """
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread ended while its file was read
    return total


def choose_cores() -> tuple[int, int]:
    """Return the cores for the server and for the client: the last two that may be used."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[-1], cores[-2] if len(cores) > 1 else cores[-1]


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Pin this thread to a core; processes started meanwhile inherit that."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
