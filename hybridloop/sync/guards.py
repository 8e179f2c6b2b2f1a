"""`no_switch()`: sections of code that must not give way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from greenlet import getcurrent

from .errors import NoSwitchError


class _Guard:
    """One section: the task and the greenlet that have entered it."""

    __slots__ = ("greenlet", "outer", "task")

    def __init__(self, task: Any, greenlet: Any, outer: _Guard | None) -> None:
        self.task = task
        self.greenlet = greenlet
        self.outer = outer


# What a section schedules inherits the context, but not the section.
_current: ContextVar[_Guard | None] = ContextVar("hybridloop.sync.no_switch", default=None)
in_use = 0
"""How many sections are entered, in all threads."""


@contextlib.contextmanager
def no_switch() -> Iterator[None]:
    """Make `await_()` raise `NoSwitchError` in this block.

    It is for code that relies on no other task running in between. `await` is not affected.
    """
    global in_use
    task = None if asyncio._get_running_loop() is None else asyncio.current_task()
    token = _current.set(_Guard(task, getcurrent(), _current.get()))
    in_use += 1
    try:
        yield
    finally:
        in_use -= 1
        guard = _current.get()
        assert guard is not None
        guard.greenlet = None
        _current.reset(token)


def refusal(task: Any) -> NoSwitchError | None:
    """The error to raise if the caller, in this task, is within a section."""
    guard = _current.get()
    while guard is not None:
        if (
            guard.greenlet is not None
            and guard.task is task
            and (task is not None or guard.greenlet is getcurrent())
        ):
            return NoSwitchError("await_() was called within no_switch()")
        guard = guard.outer
    return None
