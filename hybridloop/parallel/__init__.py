"""Work in parallel threads, with callbacks, for programs that are mostly synchronous.

The interface of PyParallel: functions go to the threads of an engine, results and errors come back
by callbacks, and `run()` in the main thread waits until everything is done::

    from hybridloop import parallel

    parallel.submit_work(checksum, (path,), callback=print, errback=report)
    parallel.submit_timer(0.5, poll_sensor)
    parallel.run()

On a Python with a global interpreter lock Python functions take turns (`mode()` says
"concurrent"); on a free-threaded one they run at the same time ("parallel").
"""

from __future__ import annotations

from .protected import (
    AssignmentError,
    ProtectionError,
    UnprotectedError,
    dict,
    list,
    protect,
    protected,
    read_lock,
    read_unlock,
    try_read_lock,
    try_write_lock,
    unprotect,
    write_lock,
    write_unlock,
)
from .work import (
    AsyncRunCalledWithoutEventsError,
    call_from_main_thread,
    call_from_main_thread_and_wait,
    is_parallel_thread,
    mode,
    run,
    run_once,
    submit_io,
    submit_timer,
    submit_wait,
    submit_work,
)

__all__ = (
    "AssignmentError",
    "AsyncRunCalledWithoutEventsError",
    "ProtectionError",
    "UnprotectedError",
    "call_from_main_thread",
    "call_from_main_thread_and_wait",
    "dict",
    "is_parallel_thread",
    "list",
    "mode",
    "protect",
    "protected",
    "read_lock",
    "read_unlock",
    "run",
    "run_once",
    "submit_io",
    "submit_timer",
    "submit_wait",
    "submit_work",
    "try_read_lock",
    "try_write_lock",
    "unprotect",
    "write_lock",
    "write_unlock",
)
