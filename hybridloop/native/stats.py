"""What the native workers and the memory bus have done and have to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._core import NativeEngine


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
