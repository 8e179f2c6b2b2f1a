"""What an engine has done and has to do."""

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
    """The name of the thread: `hybridloop-gil-0` and so on."""

    running: int
    """Spawned tasks that run on it or are on their way, `tasks_per_thread` at most."""

    pending: int
    """Tasks that wait for a place on this thread and no other (`spawn(…, thread=…)`)."""

    load: float
    """The share of its places that are taken, from 0.0 to 1.0."""

    failed: bool
    """Whether its loop has failed; it takes no more tasks."""

    loop: LoopStats
    """What its loop has done."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of an `Engine`, as `engine.stats()` takes it."""

    threads: tuple[ThreadStats, ...]
    """Its Python threads, in the order of their numbers."""

    tasks_per_thread: int
    """How many spawned tasks one thread runs at the same time."""

    spawned: int
    """Tasks that were spawned so far."""

    pending: int
    """Tasks that wait for a place, in all."""

    max_pending: int
    """How many may wait."""

    native: NativeStats | None = None
    """Its native workers."""

    bus: BusStats | None = None
    """Its memory bus."""

    @property
    def running(self) -> int:
        """Tasks that run, in all."""
        return sum(thread.running for thread in self.threads)

    @property
    def capacity(self) -> int:
        """How many tasks can run at the same time, on the threads that work."""
        return self.tasks_per_thread * sum(not thread.failed for thread in self.threads)
