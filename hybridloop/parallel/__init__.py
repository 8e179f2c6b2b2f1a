"""PyParallel's interface: work in parallel threads, and servers whose callbacks return responses.

For programs that are mostly synchronous: functions run in parallel threads, results and errors are
passed to callbacks, and `run()` in the main thread waits until everything is done::

    from hybridloop import parallel

    parallel.submit_work(checksum, (path,), callback=print, errback=report)
    parallel.submit_timer(0.5, poll_sensor)

    class Echo:
        def data_received(self, transport, data):
            return data

    parallel.register(transport=parallel.server("0.0.0.0", 7), protocol=Echo)
    parallel.run()

On a Python with a GIL, Python functions do not run in parallel (`mode()` returns "concurrent"); on
a free-threaded one they do ("parallel"). Kernels always run in parallel.
"""

from __future__ import annotations

from .._core import rdtsc
from .activity import active_hogs, active_io_loops
from .files import open, read, readfile, submit_read_io, submit_write_io, write, writefile
from .guards import (
    NoWaitersError,
    ProtectionError,
    WaitError,
    WaitTimeoutError,
    prewait,
    read_lock,
    read_unlock,
    signal,
    signal_and_wait,
    try_read_lock,
    try_write_lock,
    wait,
    wait_all,
    wait_any,
    write_lock,
    write_unlock,
)
from .introspection import (
    active_contexts,
    context_stats,
    cpu_count,
    memory_stats,
    socket_stats,
    sys_stats,
)
from .mapping import Results, map, map_reduce
from .protected import (
    AssignmentError,
    UnprotectedError,
    critical_section,
    dict,
    list,
    object,
    persisted_contexts,
    protect,
    protected,
    synchronized,
    unprotect,
)
from .protocol import Protocol
from .runtime import AsyncRunCalledWithoutEventsError, run, run_once
from .server import Client, Server, client, register, server
from .threads import is_parallel_thread, mode, thread_seq_id
from .transport import Connection, InvalidFileRangeError, IoOp
from .work import (
    call_from_main_thread,
    call_from_main_thread_and_wait,
    submit_io,
    submit_timer,
    submit_wait,
    submit_work,
)
from .xlist import xlist

__all__ = (
    "AssignmentError",
    "AsyncRunCalledWithoutEventsError",
    "Client",
    "Connection",
    "InvalidFileRangeError",
    "IoOp",
    "NoWaitersError",
    "ProtectionError",
    "Protocol",
    "Results",
    "Server",
    "UnprotectedError",
    "WaitError",
    "WaitTimeoutError",
    "active_contexts",
    "active_hogs",
    "active_io_loops",
    "call_from_main_thread",
    "call_from_main_thread_and_wait",
    "client",
    "context_stats",
    "cpu_count",
    "critical_section",
    "dict",
    "is_parallel_thread",
    "list",
    "map",
    "map_reduce",
    "memory_stats",
    "mode",
    "object",
    "open",
    "persisted_contexts",
    "prewait",
    "protect",
    "protected",
    "rdtsc",
    "read",
    "read_lock",
    "read_unlock",
    "readfile",
    "register",
    "run",
    "run_once",
    "server",
    "signal",
    "signal_and_wait",
    "socket_stats",
    "submit_io",
    "submit_read_io",
    "submit_timer",
    "submit_wait",
    "submit_work",
    "submit_write_io",
    "synchronized",
    "sys_stats",
    "thread_seq_id",
    "try_read_lock",
    "try_write_lock",
    "unprotect",
    "wait",
    "wait_all",
    "wait_any",
    "write",
    "write_lock",
    "write_unlock",
    "writefile",
    "xlist",
)
