"""Exceptions of engines."""

from __future__ import annotations


class EngineFullError(RuntimeError):
    """All threads run `tasks_per_thread` tasks, and the queue has `max_pending` tasks."""


class EngineClosedError(RuntimeError):
    """The engine was not started, is closed, or belongs to the parent process."""
