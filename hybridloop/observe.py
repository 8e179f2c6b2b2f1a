"""The former name of `hybridloop.metrics`."""

from __future__ import annotations

from .metrics import EngineInfo, LoopInfo, ProcessStats, Server, serve, snapshot

__all__ = ["EngineInfo", "LoopInfo", "ProcessStats", "Server", "serve", "snapshot"]
