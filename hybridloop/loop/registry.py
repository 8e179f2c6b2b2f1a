"""Numbered weak references: the loops and engines that a process has."""

from __future__ import annotations

import itertools
import os
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Registry:
    """Weak references to objects, numbered in the order in which the objects were made.

    The child of a fork begins with an empty one.
    """

    def __init__(self) -> None:
        self._items: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._numbers = itertools.count(1)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._items.clear)

    def add(self, item: Any) -> None:
        """Give `item` the next number."""
        self._items[next(self._numbers)] = item

    def items(self) -> list[tuple[int, Any]]:
        """The objects that are alive, with their numbers; in any thread."""
        # valuerefs() copies the references in one step: other threads may be adding.
        return [(ref.key, item) for ref in self._items.valuerefs() if (item := ref()) is not None]
