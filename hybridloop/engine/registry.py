"""The engines that the process has now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..loop.registry import Registry

if TYPE_CHECKING:
    from .engine import Engine

_engines: Registry[Engine] = Registry()

add_engine = _engines.add
"""An engine has started."""


def engines() -> list[tuple[int, Engine]]:
    """The engines that have a loop which is not closed, with their numbers; in any thread."""
    return [(number, engine) for number, engine in _engines.items() if engine._open_loops()]
