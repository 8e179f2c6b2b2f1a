"""hybridloop: an asyncio event loop in Rust, on mio.

A drop-in replacement for asyncio's loop, or for uvloop::

    asyncio.Runner(loop_factory=hybridloop.new_event_loop)
    hybridloop.run(main())
    uvicorn app:app --loop hybridloop:new_event_loop
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from ._build_info import BuildInfo, build_info
from ._core import (
    AsyncFunction,
    Bus,
    Channel,
    Kernel,
    NativeBatch,
    NativeBuffer,
    NativeEngine,
    NativeJob,
    __version__,
    run_native,
    run_native_many,
)
from .engine import Engine, EngineClosedError, EngineFullError, EngineServer
from .engine.stats import EngineStats, ThreadStats
from .engine.task_handle import TaskHandle
from .loop import Loop, new_event_loop, run
from .loop.loop import nesting, on_new_loop
from .loop.policy import install, policy_class
from .loop.stats import LoopStats
from .loop.streams import (
    StreamReader,
    StreamReaderProtocol,
    StreamWriter,
    open_connection,
    open_unix_connection,
    start_server,
    start_unix_server,
)
from .native import (
    JobOptions,
    configure,
    get_include,
    kernel,
    kernels,
    load_kernels,
    register_kernel,
    typed_kernel,
)
from .native.errors import (
    BufferInUseError,
    BusBusyError,
    BusClosedError,
    BusError,
    BusFullError,
    BusKeyError,
    BusKeyExistsError,
    ChannelClosedError,
    ChannelFullError,
    KernelAbiError,
    KernelExistsError,
    KernelLibraryError,
    KernelNotFoundError,
    KernelRegistrationError,
    KernelSignatureError,
    KernelSymbolError,
    NativeClosedError,
    NativeKernelError,
    NativeQueueFullError,
)
from .native.stats import BusStats, NativeStats

if TYPE_CHECKING:
    from . import cluster as cluster
    from . import metrics as metrics
    from . import observe as observe
    from . import parallel as parallel
    from . import sync as sync
    from .loop.policy import EventLoopPolicy as EventLoopPolicy
    from .sync import await_ as await_
    from .sync import ohwait as ohwait

__all__ = (
    "AsyncFunction",
    "BufferInUseError",
    "BuildInfo",
    "Bus",
    "BusBusyError",
    "BusClosedError",
    "BusError",
    "BusFullError",
    "BusKeyError",
    "BusKeyExistsError",
    "BusStats",
    "Channel",
    "ChannelClosedError",
    "ChannelFullError",
    "Engine",
    "EngineClosedError",
    "EngineFullError",
    "EngineServer",
    "EngineStats",
    "EventLoopPolicy",
    "JobOptions",
    "Kernel",
    "KernelAbiError",
    "KernelExistsError",
    "KernelLibraryError",
    "KernelNotFoundError",
    "KernelRegistrationError",
    "KernelSignatureError",
    "KernelSymbolError",
    "Loop",
    "LoopStats",
    "NativeBatch",
    "NativeBuffer",
    "NativeClosedError",
    "NativeEngine",
    "NativeJob",
    "NativeKernelError",
    "NativeQueueFullError",
    "NativeStats",
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "TaskHandle",
    "ThreadStats",
    "__version__",
    "await_",
    "build_info",
    "configure",
    "get_include",
    "install",
    "kernel",
    "kernels",
    "load_kernels",
    "new_event_loop",
    "ohwait",
    "open_connection",
    "open_unix_connection",
    "register_kernel",
    "run",
    "run_native",
    "run_native_many",
    "start_server",
    "start_unix_server",
    "typed_kernel",
)


def _serve_metrics() -> None:
    from .metrics.server import serve_or_warn

    serve_or_warn()


# Set by the user of the program, to serve its statistics.
if os.environ.get("HYBRIDLOOP_OBSERVE", "0") not in ("", "0"):
    on_new_loop.append(_serve_metrics)


nesting.load = lambda: import_module(".sync", __name__)

# Imported on first use, because most programs do not need them.
_LAZY = ("cluster", "metrics", "observe", "parallel", "sync")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LAZY})


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return import_module(f".{name}", __name__)
    if name == "EventLoopPolicy":
        return policy_class()
    if name in ("await_", "ohwait"):
        return import_module(".sync", __name__).await_
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
