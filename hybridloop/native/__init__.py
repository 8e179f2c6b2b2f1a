"""Native kernels: the registry, the process-wide engine, waiting for the bus and for channels."""

from __future__ import annotations

from .._core import _provide
from . import bus, errors
from .config import configure, parse_size
from .registry import discover, get_include, kernels, load_kernels, register_kernel

__all__ = [
    "configure",
    "discover",
    "get_include",
    "kernels",
    "load_kernels",
    "parse_size",
    "register_kernel",
]

_provide(
    errors=errors,
    discover_kernels=discover,
    wait_for_key=bus.bus_wait,
    wait_for_arrival=bus.channel_wait,
    take_from=bus.channel_get,
    next_of=bus.channel_next,
)
