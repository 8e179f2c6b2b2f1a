"""Statistics of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..loop.stats import LoopStats
    from ..native.stats import BusStats, NativeStats


@dataclass(frozen=True, slots=True)
class ThreadStats:
    """One thread of an `Engine`."""

    name: str
    """The name of the thread, such as `hybridloop-gil-0`."""

    running: int
    """Spawned tasks that run on it or are about to start; at most `tasks_per_thread`."""

    pending: int
    """Tasks that wait for this thread only (`spawn(…, thread=…)`)."""

    load: float
    """`running` as a share of `tasks_per_thread`, from 0.0 to 1.0."""

    failed: bool
    """Whether its loop has failed. It runs no more tasks then."""

    loop: LoopStats
    """The counters of its loop."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of an `Engine`, as returned by `engine.stats()`."""

    threads: tuple[ThreadStats, ...]
    """Its threads, in the order of their numbers."""

    tasks_per_thread: int
    """The largest number of spawned tasks that one thread runs at a time."""

    spawned: int
    """Tasks that were spawned."""

    pending: int
    """Tasks that wait for a thread, in total."""

    max_pending: int
    """The largest number of waiting tasks."""

    native: NativeStats | None = None
    """Its native workers."""

    bus: BusStats | None = None
    """Its memory bus."""

    @property
    def running(self) -> int:
        """Spawned tasks that run, in total."""
        return sum(thread.running for thread in self.threads)

    @property
    def capacity(self) -> int:
        """How many spawned tasks can run at a time, on the threads that have not failed."""
        return self.tasks_per_thread * sum(not thread.failed for thread in self.threads)
