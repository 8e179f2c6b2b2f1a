"""hybridloop: an asyncio event loop in Rust, on mio.

A drop-in replacement for asyncio's loop, or for uvloop::

    asyncio.Runner(loop_factory=hybridloop.new_event_loop)
    hybridloop.run(main())
    uvicorn app:app --loop hybridloop:new_event_loop
"""

from __future__ import annotations

import atexit
import os
from functools import partial
from importlib import import_module

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
    _close_engines,
    _provide,
    run_native,
    run_native_many,
)
from .loop import Loop, new_event_loop, run
from .loop.loop import nesting, on_new_loop

# typing.TYPE_CHECKING, without an import that most programs do not need.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import cluster as cluster
    from . import engine as engine
    from . import generators as generators
    from . import metrics as metrics
    from . import native as native
    from . import observe as observe
    from . import parallel as parallel
    from . import sync as sync
    from ._build_info import BuildInfo, build_info
    from .engine import Engine, EngineClosedError, EngineFullError, EngineServer
    from .engine.stats import EngineStats, ThreadStats
    from .engine.task_handle import TaskHandle
    from .loop.policy import EventLoopPolicy, install
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
    from .sync import await_, ohwait

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

nesting.load = partial(import_module, ".sync", __name__)
_provide(load_native=partial(import_module, ".native", __name__))
# Engines are closed after what the user of this module registers.
atexit.register(_close_engines)

# What is imported on first use: an event loop alone needs none of it.
_SUBPACKAGES = (
    "cluster",
    "engine",
    "generators",
    "metrics",
    "native",
    "observe",
    "parallel",
    "sync",
)
_NAMES = {
    "_build_info": ("BuildInfo", "build_info"),
    "engine": ("Engine", "EngineClosedError", "EngineFullError", "EngineServer", "TaskHandle"),
    "engine.stats": ("EngineStats", "ThreadStats"),
    "loop.policy": ("EventLoopPolicy", "install"),
    "loop.stats": ("LoopStats",),
    "loop.streams": (
        "StreamReader",
        "StreamReaderProtocol",
        "StreamWriter",
        "open_connection",
        "open_unix_connection",
        "start_server",
        "start_unix_server",
    ),
    "native": (
        "JobOptions",
        "configure",
        "get_include",
        "kernel",
        "kernels",
        "load_kernels",
        "register_kernel",
        "typed_kernel",
    ),
    "native.errors": (
        "BufferInUseError",
        "BusBusyError",
        "BusClosedError",
        "BusError",
        "BusFullError",
        "BusKeyError",
        "BusKeyExistsError",
        "ChannelClosedError",
        "ChannelFullError",
        "KernelAbiError",
        "KernelExistsError",
        "KernelLibraryError",
        "KernelNotFoundError",
        "KernelRegistrationError",
        "KernelSignatureError",
        "KernelSymbolError",
        "NativeClosedError",
        "NativeKernelError",
        "NativeQueueFullError",
    ),
    "native.stats": ("BusStats", "NativeStats"),
    "sync": ("await_", "ohwait"),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})


def __getattr__(name: str) -> object:
    if name in _SUBPACKAGES:
        return import_module(f".{name}", __name__)
    if (module := _MODULE_OF.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value
