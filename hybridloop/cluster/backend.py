"""What a cluster needs of the program that distributes the work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker that can be called."""

    address: str
    threads: int
    kernels: Mapping[str, tuple[str | None, str]]
    """Signature and description, by the name of the kernel."""
    required: frozenset[str] = frozenset()
    """The kernels of the libraries, which each worker must have."""
    problem: str | None = None
    """Why the worker cannot run the kernels."""
    engine: Mapping[str, int] = field(default_factory=dict)
    """Statistics of its native engine, as of the last ping."""


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    """A worker has joined, or was lost."""

    address: str
    joined: WorkerInfo | None
    reason: str = ""
    """Why it was lost."""


@dataclass(eq=False, slots=True)
class ClusterRef:
    """A value that `put()` has stored on a worker. It is deleted with its last reference."""

    handle: Any = field(repr=False)
    nbytes: int
    holders: set[str]
    """Addresses of the workers that have it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a kernel, or several calls of it with one result."""

    id: int
    kernel: str
    arguments: list[Any]
    """Values as parts of a message; of a batch, a list of them for each call."""
    frames: list[Any]
    """The large buffers among the arguments."""
    refs: Mapping[int, ClusterRef]
    """References among the arguments, by their place."""
    timeout: float | None = None
    priority: int = 0
    batch: bool = False
    on_progress: Callable[[int, int], object] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """How a call has ended: with a value, an exception, or cancelled by the worker."""

    value: Any = None
    error: Exception | None = None
    cancelled: bool = False


class Backend(Protocol):
    """The program that distributes the work: `hybridloop.cluster` has one for Dask."""

    async def start(self, libraries: Sequence[str]) -> None:
        """Connect; the workers load the libraries of kernels."""

    async def close(self) -> None:
        """Disconnect; what was called ends as lost."""

    def workers(self) -> list[WorkerInfo]:
        """The workers that can be reached."""

    async def call(self, call: Call, worker: str | None, retries: int = 0) -> asyncio.Future[Reply]:
        """Send a call to a worker, or to any worker, which may happen more than once."""

    def cancel(self, call: Call, worker: str | None) -> None:
        """Cancel a call; its reply still comes."""

    async def put(self, value: Any, worker: str) -> ClusterRef:
        """Store a value on a worker."""

    def events(self) -> AsyncIterator[WorkerEvent]:
        """Workers that join or are lost, as it happens."""
