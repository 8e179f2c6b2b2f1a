"""What an engine raises."""

from __future__ import annotations


class EngineFullError(RuntimeError):
    """Every thread runs `tasks_per_thread` tasks, and `max_pending` more are waiting."""


class EngineClosedError(RuntimeError):
    """The engine has not been started, is closed, or was started by the parent of a fork."""
