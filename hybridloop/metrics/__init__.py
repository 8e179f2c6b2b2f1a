"""Statistics of the loops and engines of a process.

`snapshot()` returns them in the process. `serve()` makes them available to `python -m hybridloop
top PID`, at a Unix socket that only the same user can open; starting the program with
`HYBRIDLOOP_OBSERVE=1` does the same. Without either there is no socket and no thread.
"""

from __future__ import annotations

from .server import Server, serve
from .snapshot import EngineInfo, LoopInfo, ProcessStats, snapshot

__all__ = ["EngineInfo", "LoopInfo", "ProcessStats", "Server", "serve", "snapshot"]
