"""The loops and engines that the process has now, for `hybridloop.observe`.

They are held weakly and numbered in the order in which they were made. A loop costs one entry here
when it is made, and nothing while it runs.
"""

from __future__ import annotations

import itertools
import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine import Engine
    from .loop import Loop

_loops: weakref.WeakValueDictionary[int, Loop] = weakref.WeakValueDictionary()
_engines: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()
_loop_numbers = itertools.count(1)
_engine_numbers = itertools.count(1)

# Whether the process was asked, from outside, to tell its statistics.
_observed = os.environ.get("HYBRIDLOOP_OBSERVE", "0") not in ("", "0")


def add_loop(loop: Loop) -> None:
    """A loop was made."""
    _loops[next(_loop_numbers)] = loop
    if _observed:
        from .observe.server import serve_if_possible

        serve_if_possible()


def add_engine(engine: Engine) -> None:
    """An engine has started."""
    _engines[next(_engine_numbers)] = engine


def loops() -> list[tuple[int, Loop]]:
    """The loops that are not closed, with their numbers; in any thread."""
    return [
        (ref.key, loop)
        # A copy, taken in one step: other threads make loops meanwhile.
        for ref in _loops.valuerefs()
        if (loop := ref()) is not None and not loop.is_closed()
    ]


def engines() -> list[tuple[int, Engine]]:
    """The engines that have a loop which is not closed, with their numbers; in any thread."""
    return [
        (ref.key, engine)
        for ref in _engines.valuerefs()
        if (engine := ref()) is not None and engine._live_loops()
    ]


def _forget_the_parents() -> None:
    _loops.clear()
    _engines.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parents)
