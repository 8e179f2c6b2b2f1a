"""`waiting()`: which functions wait, and where."""

from __future__ import annotations

import asyncio
import os
import traceback
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ..loop.loop import open_loops
from .awaiting import stacks_of
from .prepared import prepared

_own_folder = os.path.dirname(__file__) + os.sep


@dataclass(frozen=True, slots=True)
class WaitingFunction:
    """An ordinary function that waits in `await_()`."""

    loop: asyncio.AbstractEventLoop
    """The loop that goes on meanwhile."""

    task: asyncio.Task[Any] | None
    """The task that has called the function; `None` if a callback of the loop has."""

    since: float
    """When it began to wait, in seconds of `loop.time()`."""

    future: asyncio.Future[Any] | None
    """What it waits for; `None` for an awaitable that gives way for one iteration."""

    frames: tuple[FrameType, ...]
    """The frames from the callback, or the task, to the call of `await_()`."""

    @property
    def stack(self) -> traceback.StackSummary:
        """The frames as `traceback` shows them."""
        return traceback.StackSummary.extract((frame, frame.f_lineno) for frame in self.frames)

    def __str__(self) -> str:
        caller = "a callback" if self.task is None else repr(self.task)
        return f"{caller} waits for {self.future!r}:\n" + "".join(self.stack.format())


def _frames(top: FrameType | None) -> tuple[FrameType, ...]:
    found: list[FrameType] = []
    while top is not None:
        if found or not top.f_code.co_filename.startswith(_own_folder):
            found.append(top)
        top = top.f_back
    while found and found[-1].f_code.co_filename.startswith(_own_folder):
        found.pop()
    return tuple(reversed(found))


def waiting(loop: asyncio.AbstractEventLoop | None = None) -> list[WaitingFunction]:
    """The functions that wait now on this loop, or on all loops, in the order in which they began.

    It may be called in any thread.
    """
    loops: list[Any] = [loop] if loop is not None else [each for _, each in open_loops()]
    if loop is None:
        loops += prepared
    return [
        WaitingFunction(
            each, stack.task, stack.since, stack.future, _frames(stack.greenlet.gr_frame)
        )
        for each in loops
        if (stacks := stacks_of(each)) is not None
        for stack in list(stacks.waiting)
    ]
