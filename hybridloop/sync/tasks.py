"""What a task shows of its waiting, set from outside.

So `task.cancel()` reaches an ordinary function that waits in the task.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from asyncio import tasks
from collections.abc import Callable
from typing import Any

from .._core import _probe_task_fields, _set_task_must_cancel

try:
    from _asyncio import Task as _NativeTask
except ImportError:
    _NativeTask = None  # type: ignore[assignment, misc]


if sys.version_info >= (3, 12):
    # typeshed does not know it.
    swap_current_task: Callable[[Any, Any], Any] = vars(tasks)["_swap_current_task"]
else:

    def swap_current_task(loop: Any, task: Any) -> Any:
        """Make `task` the current one, or none, and return the one that was."""
        before = asyncio.current_task(loop)
        if before is not None:
            tasks._leave_task(loop, before)
        if task is not None:
            tasks._enter_task(loop, task)
        return before


class _ProbeLoop:
    """As much of a loop as a task needs to begin."""

    def __init__(self) -> None:
        self.ready: list[Any] = []

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context) -> None:
        self.ready.append((callback, args, context))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Nothing that the probe causes is worth a report."""

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def run(self) -> None:
        while self.ready:
            callback, args, context = self.ready.pop(0)
            context.run(callback, *args)


def _probe() -> bool:
    """Find out where tasks of `_asyncio` keep what `await_()` sets."""
    if _NativeTask is None:
        return False
    loop: Any = _ProbeLoop()
    future: asyncio.Future[None] = asyncio.Future(loop=loop)

    async def wait() -> None:
        await future

    running = asyncio._get_running_loop()
    current = None if running is None else asyncio.current_task(running)
    if current is not None:
        swap_current_task(running, None)
    asyncio._set_running_loop(loop)
    try:
        task = _NativeTask(wait(), loop=loop)
        loop.run()
        fresh = _NativeTask(wait(), loop=loop)
        known = _probe_task_fields(task, future, fresh)
        for each in (task, fresh):
            each.cancel()
        loop.run()
        return known
    finally:
        asyncio._set_running_loop(running)
        if current is not None:
            swap_current_task(running, current)


KNOWS_NATIVE_TASKS = _probe()


def can_wait_in(task: Any) -> bool:
    """Whether the fields of this task can be set."""
    if type(task) is _NativeTask:
        return KNOWS_NATIVE_TASKS
    if _NativeTask is not None and isinstance(task, _NativeTask):
        return KNOWS_NATIVE_TASKS
    return isinstance(task, tasks._PyTask)  # type: ignore[attr-defined]


def set_must_cancel(task: Any, value: bool) -> None:
    """Set whether a cancellation of the task is still to be delivered."""
    if _NativeTask is not None and isinstance(task, _NativeTask):
        _set_task_must_cancel(task, value)
    else:
        task._must_cancel = value
