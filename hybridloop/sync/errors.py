"""Errors of `hybridloop.sync`."""

from __future__ import annotations

import sys

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()


class SyncAwaitError(RuntimeError):
    """`await_()` was called where it cannot wait."""

    __module__ = "hybridloop.sync"


class NoSwitchError(SyncAwaitError):
    """`await_()` was called within `no_switch()`."""

    __module__ = "hybridloop.sync"


def check_python() -> None:
    """Raise an error if functions cannot wait on this Python."""
    if FREE_THREADED:
        raise SyncAwaitError("await_() is not supported on free-threaded builds of Python")
