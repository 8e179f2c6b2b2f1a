"""What `Cluster.run_native()` returns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, TypeVar

from ..engine.mapping import MapResults, NativeChunk

_T = TypeVar("_T")


class ClusterJob(asyncio.Task[_T]):
    """A call on a worker of a cluster: a task, which can be awaited and cancelled.

    Cancelling it cancels the kernel. The task ends when the kernel has returned; cancelled for a
    second time, it ends at once.
    """

    def __aiter__(self) -> AsyncIterator[Any]:
        """Raises `TypeError`: a cluster does not transmit the items that a kernel emits."""
        raise TypeError(
            "the items that a kernel emits stay on the worker: run the kernel on this machine, "
            "or let it return them as its result"
        )


class ClusterChunk(NativeChunk):
    """Calls of a kernel on a worker, as the `ClusterJob` of a batch."""

    def when_done(self, callback: Callable[[Any], object]) -> None:
        self.batch.add_done_callback(callback)


class ClusterMap(MapResults[_T]):
    """The results of `Cluster.map()`, for `async for`.

    Results have the order of the items, unless `ordered` is false: then those of a chunk come when
    it has ended. An exception of a call is raised in the place of its result and ends the
    iteration. `close()`, a timeout, and cancelling the iterating task end it too. Calls that have
    not ended are cancelled then.
    """

    def __iter__(self) -> NoReturn:
        """Raises `TypeError`: results arrive through the loop."""
        raise TypeError("the results of a cluster arrive through the loop: use 'async for'")

    def __next__(self) -> NoReturn:
        """Raises `TypeError`: results arrive through the loop."""
        iter(self)
