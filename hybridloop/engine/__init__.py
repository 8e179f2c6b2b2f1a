"""`Engine`: coroutines on several threads, each with an event loop of its own.

`spawn()` places a coroutine on the thread with the least to do and gives a `TaskHandle`, which any
thread and any asyncio loop may wait for. No thread ever runs more than `tasks_per_thread` of them
at once; what comes beyond that waits in a bounded queue.

On a Python with a global interpreter lock the threads take turns: they keep one workload from
delaying another, and add no speed. On a free-threaded Python they run in parallel.
"""

from __future__ import annotations

from .engine import Engine
from .errors import EngineClosedError, EngineFullError
from .serving import EngineServer
from .task_handle import TaskHandle

__all__ = ["Engine", "EngineClosedError", "EngineFullError", "EngineServer", "TaskHandle"]
