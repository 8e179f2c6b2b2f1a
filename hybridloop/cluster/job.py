"""What `Cluster.run_native()` returns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn, TypeVar

from ..engine.mapping import MapResults

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


class ClusterMap(MapResults[_T]):
    """The results of `Cluster.map()`, for `async for`, in the order of the items.

    An exception of a call is raised in the place of its result and ends the iteration. `close()`
    and cancelling the iterating task end it too. Calls that have not ended are cancelled then.
    """

    def __iter__(self) -> NoReturn:
        """Raises `TypeError`: results arrive through the loop."""
        raise TypeError("the results of a cluster arrive through the loop: use 'async for'")
