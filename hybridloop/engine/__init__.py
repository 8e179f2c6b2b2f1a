"""`Engine`: coroutines on several threads, each with an event loop of its own.

`spawn()` schedules a coroutine on the least loaded thread and returns a `TaskHandle`, which any
thread and any asyncio loop may wait for. A thread runs at most `tasks_per_thread` spawned tasks at
a time; further tasks wait in a bounded queue.

On a Python with a GIL, the threads do not run in parallel: they keep one workload from delaying
another, but add no throughput. On a free-threaded Python they run in parallel.
"""

from __future__ import annotations

from .engine import Engine
from .errors import EngineClosedError, EngineFullError
from .serving import EngineServer
from .task_handle import TaskHandle

__all__ = ["Engine", "EngineClosedError", "EngineFullError", "EngineServer", "TaskHandle"]
