"""Exceptions of engines."""

from __future__ import annotations

from ..native.errors import EngineClosedError

__all__ = ["EngineClosedError", "EngineFullError"]


class EngineFullError(RuntimeError):
    """All threads run `tasks_per_thread` tasks, and the queue has `max_pending` tasks."""
