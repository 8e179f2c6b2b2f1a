"""Ordinary functions that wait for awaitables.

`await_(awaitable)`, called by any function that a task or a callback of the loop has called, waits
and returns the result, while the loop goes on with everything else::

    from hybridloop import await_

    class Page:
        @property
        def text(self):
            return await_(fetch(self.url))

It needs greenlet: ``pip install 'hybridloop[sync]'``.
"""

from __future__ import annotations

from . import _requirement as _requirement
from .awaiting import await_, can_await, ohwait
from .errors import NoSwitchError, SyncAwaitError
from .guards import no_switch
from .helpers import entered, iterate, run, synced
from .nesting import nest, unnest
from .observing import WaitingFunction, waiting
from .prepared import prepare

__all__ = (
    "NoSwitchError",
    "SyncAwaitError",
    "WaitingFunction",
    "await_",
    "can_await",
    "entered",
    "iterate",
    "nest",
    "no_switch",
    "ohwait",
    "prepare",
    "run",
    "synced",
    "unnest",
    "waiting",
)
