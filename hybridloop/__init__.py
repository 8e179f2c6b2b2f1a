"""hybridloop: an asyncio event loop in Rust, on mio.

A drop-in for uvloop that stays true to asyncio::

    asyncio.Runner(loop_factory=hybridloop.new_event_loop)
    hybridloop.run(main())
    uvicorn app:app --loop hybridloop:new_event_loop
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._core import (
    Bus,
    Channel,
    Kernel,
    NativeBatch,
    NativeBuffer,
    NativeEngine,
    NativeJob,
    __version__,
)
from .engine import Engine, EngineClosedError, EngineFullError, EngineServer
from .errors import (
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
    KernelRegistrationError,
    KernelSignatureError,
    KernelSymbolError,
    NativeClosedError,
    NativeKernelError,
    NativeQueueFullError,
)
from .handle import TaskHandle
from .loop import Loop, new_event_loop, run
from .native import configure, get_include, kernels, load_kernels, register_kernel
from .policy import install
from .stats import BusStats, EngineStats, LoopStats, NativeStats, ThreadStats
from .streams import (
    StreamReader,
    StreamReaderProtocol,
    StreamWriter,
    open_connection,
    open_unix_connection,
    start_server,
    start_unix_server,
)

if TYPE_CHECKING:
    from . import observe as observe
    from . import parallel as parallel
    from .policy import EventLoopPolicy as EventLoopPolicy

__all__ = (
    "BufferInUseError",
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
    "Kernel",
    "KernelAbiError",
    "KernelExistsError",
    "KernelLibraryError",
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
    "configure",
    "get_include",
    "install",
    "kernels",
    "load_kernels",
    "new_event_loop",
    "open_connection",
    "open_unix_connection",
    "register_kernel",
    "run",
    "start_server",
    "start_unix_server",
)


# Imported on first use: most programs need neither.
_LATER = ("observe", "parallel")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LATER})


def __getattr__(name: str) -> object:
    if name in _LATER:
        return import_module(f".{name}", __name__)
    # Made on first use: policies are deprecated since Python 3.14, and an import should not warn.
    if name == "EventLoopPolicy":
        from .policy import make_policy_class

        policy = globals()[name] = make_policy_class()
        return policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
