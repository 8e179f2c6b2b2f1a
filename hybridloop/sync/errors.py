"""Errors of `hybridloop.sync`."""

from __future__ import annotations


class SyncAwaitError(RuntimeError):
    """`await_()` was called where it cannot wait."""

    __module__ = "hybridloop.sync"


class NoSwitchError(SyncAwaitError):
    """`await_()` was called within `no_switch()`."""

    __module__ = "hybridloop.sync"
