"""The loops that the process has now.

They are held weakly and numbered in the order in which they were made. A loop costs one entry here
when it is made, and nothing while it runs.
"""

from __future__ import annotations

import itertools
import os
import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from .loop import Loop

_T = TypeVar("_T")


class Registry(Generic[_T]):
    """Numbered weak references, which the child of a fork starts without."""

    def __init__(self) -> None:
        self._items: weakref.WeakValueDictionary[int, _T] = weakref.WeakValueDictionary()
        self._numbers = itertools.count(1)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._items.clear)

    def add(self, item: _T) -> None:
        """Give `item` the next number."""
        self._items[next(self._numbers)] = item

    def items(self) -> list[tuple[int, _T]]:
        """What is alive, with its number; in any thread."""
        # A copy of the references, taken in one step: other threads add to them meanwhile.
        return [(ref.key, item) for ref in self._items.valuerefs() if (item := ref()) is not None]


_loops: Registry[Loop] = Registry()

on_new_loop: list[Callable[[], object]] = []
"""Called whenever a loop was made: hooks of packages that build on loops."""


def add_loop(loop: Loop) -> None:
    """A loop was made."""
    _loops.add(loop)
    for hook in on_new_loop:
        hook()


def loops() -> list[tuple[int, Loop]]:
    """The loops that are not closed, with their numbers; in any thread."""
    return [(number, loop) for number, loop in _loops.items() if not loop.is_closed()]
