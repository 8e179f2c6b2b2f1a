"""Statistics of native workers and of the memory bus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._core import NativeEngine


@dataclass(frozen=True, slots=True)
class NativeStats:
    """The native workers of an `Engine`, or of the process-wide engine."""

    workers: int
    """Threads that run kernels; they are started with the first job."""

    busy: int
    """Workers that are running a kernel."""

    queued: int
    """Jobs that are waiting for a worker."""

    pending: int
    """Jobs that are waiting for the completion of their tokens; they use no worker."""

    done: int
    """Jobs whose kernel returned a value."""

    failed: int
    """Jobs whose kernel returned an error."""

    cancelled: int
    """Jobs that were cancelled or timed out."""

    memory: int
    """Bytes of results and of blocks on the bus that are in use."""


@dataclass(frozen=True, slots=True)
class BusStats:
    """The memory bus of an `Engine`, or of the process-wide engine."""

    keys: int
    """Keys on the bus."""

    bytes: int
    """Bytes of the blocks on the bus."""

    capacity: int
    """The largest number of bytes."""

    writes: int
    """Blocks that were put on the bus."""

    reads: int
    """Reads that found their key."""

    evictions: int
    """Blocks that were evicted to make space."""

    refused: int
    """Calls from Python that were rejected because a kernel was writing the key."""


def native_stats(engine: NativeEngine | None) -> tuple[NativeStats | None, BusStats | None]:
    """The statistics of a native engine; `None` for one of the parent process."""
    if engine is None or not (found := engine.stats()):
        return None, None
    native = NativeStats(
        workers=found["threads"],
        busy=found["running"],
        queued=found["queued"],
        pending=found["pending"],
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
