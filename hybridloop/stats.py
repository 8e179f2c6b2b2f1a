"""Snapshots of what loops and engines have done and have to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._core import NativeEngine

__all__ = ["BusStats", "EngineStats", "LoopStats", "NativeStats", "ThreadStats"]


@dataclass(frozen=True, slots=True)
class LoopStats:
    """A snapshot of a loop's counters, as `loop.stats()` takes it.

    The counters begin with the loop, are always on, and never go back; subtract two snapshots for
    what happened in between. `dataclasses.asdict()` makes a dictionary of one.
    """

    turns: int
    """Turns of the loop, each of which runs what was ready when it began."""

    callbacks: int
    """Callbacks run: of `call_soon()` and timers, steps of tasks among them, and one for each
    descriptor that became ready."""

    polls: int
    """How often the loop has asked the system for I/O."""

    polls_skipped: int
    """How often a busy loop has put that off; see `poll_skip_interval`."""

    ready: int
    """Callbacks that wait for their turn now."""

    timers: int
    """Timers scheduled now, without those that were cancelled."""

    transports: int
    """Open socket transports now, listening sockets not among them. A TLS connection is one. Pipes
    are not counted."""

    bytes_in: int
    """Bytes received by socket transports, before decryption, and by `sock_recv()` and
    `sock_recv_into()`."""

    bytes_out: int
    """Bytes sent by socket transports, after encryption, and by `sock_sendall()`."""

    longest_turn: float
    """Seconds of the longest turn so far, waiting for I/O left out: no callback has been later
    than that."""

    longest_callback: float
    """Seconds of the longest callback so far. When a turn runs many callbacks of about a
    microsecond, up to eight are timed together: one that is longer is told with its neighbours."""

    running_seconds: float
    """Seconds that the loop has run, waiting for I/O included."""

    busy_seconds: float
    """Seconds of these in which it did not wait for I/O."""

    @property
    def busy(self) -> float:
        """The share of the time it has run that the loop did not wait for I/O, from 0.0 to 1.0."""
        return self.busy_seconds / self.running_seconds if self.running_seconds else 0.0


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
class NativeStats:
    """The native workers of an `Engine`, or of the process."""

    workers: int
    """Threads that run kernels; they start with the first job."""

    busy: int
    """Of these, the ones that run a kernel now."""

    queued: int
    """Jobs that wait for a worker."""

    done: int
    """Jobs whose kernel has returned a value."""

    failed: int
    """Jobs whose kernel has reported an error."""

    cancelled: int
    """Jobs that were cancelled, or were too late."""

    memory: int
    """Bytes of results and of blocks on the bus that are alive."""


@dataclass(frozen=True, slots=True)
class BusStats:
    """The memory bus of an `Engine`, or of the process."""

    keys: int
    """Keys now."""

    bytes: int
    """Bytes under these keys."""

    capacity: int
    """Bytes there is room for."""

    writes: int
    """Blocks that were put on the bus."""

    reads: int
    """Reads that found their key."""

    evictions: int
    """Blocks that had to make room for others."""

    refused: int
    """Calls from Python that were refused because a kernel was writing the key."""


def native_stats(engine: NativeEngine | None) -> tuple[NativeStats | None, BusStats | None]:
    """What an engine of native kernels does; nothing of one that the parent of a fork has made."""
    if engine is None or not (found := engine.stats()):
        return None, None
    native = NativeStats(
        workers=found["threads"],
        busy=found["running"],
        queued=found["queued"],
        done=found["done"],
        failed=found["failed"],
        cancelled=found["cancelled"],
        memory=found["memory"],
    )
    bus = found["bus"]
    return native, BusStats(
        keys=bus["keys"],
        bytes=bus["bytes"],
        capacity=bus["capacity"],
        writes=bus["writes"],
        reads=bus["reads"],
        evictions=bus["evictions"],
        refused=bus["busy"],
    )


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
