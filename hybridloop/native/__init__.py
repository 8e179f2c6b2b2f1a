"""Native kernels: the registry, the process-wide engine, waiting for the bus and for channels."""

from __future__ import annotations

from .._core import _provide
from . import bus, errors
from .compiled import kernel
from .config import configure, parse_size
from .declared import JobOptions, typed_kernel
from .futures import FutureView, IterationWaiter, start_callback_thread
from .registry import discover, get_include, kernels, load_kernels, register_kernel
from .signatures import kernel_signature

__all__ = [
    "JobOptions",
    "configure",
    "discover",
    "get_include",
    "kernel",
    "kernels",
    "load_kernels",
    "parse_size",
    "register_kernel",
    "typed_kernel",
]

_provide(
    errors=errors,
    discover_kernels=discover,
    kernel_signature=kernel_signature,
    future_view=FutureView,
    iteration_waiter=IterationWaiter,
    start_callback_thread=start_callback_thread,
    bus_wait=bus.bus_wait,
    channel_wait=bus.channel_wait,
    channel_get=bus.channel_get,
    channel_next=bus.channel_next,
)
