"""Servers that accept connections on the threads of an engine."""

from __future__ import annotations

from .server import EngineServer

__all__ = ["EngineServer"]
