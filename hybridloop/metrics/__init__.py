"""What the loops of a process do, for people and for monitoring.

`snapshot()` tells it inside the process. `serve()` tells it to `python -m hybridloop top PID`, by a
Unix socket that only the same user can open; so does starting the program with
`HYBRIDLOOP_OBSERVE=1`. Without either there is no socket and no thread.
"""

from __future__ import annotations

from .server import Server, serve
from .snapshot import EngineInfo, LoopInfo, ProcessStats, snapshot

__all__ = ["EngineInfo", "LoopInfo", "ProcessStats", "Server", "serve", "snapshot"]
