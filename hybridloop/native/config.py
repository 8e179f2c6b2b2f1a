"""The process-wide native engine: its configuration."""

from __future__ import annotations

import re

from .._core import NativeEngine, _set_default_engine

_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40} | {
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


def parse_size(name: str, size: int | str | None) -> int | None:
    """The number of bytes of a size such as `268435456` or `"256MiB"`.

    `name` is the argument's name for error messages.
    """
    if size is None:
        return None
    if not isinstance(size, str):
        if not hasattr(size, "__index__"):
            raise TypeError(
                f"{name} must be a number of bytes, or a string like '256MiB', not"
                f" {type(size).__name__}"
            )
        if size < 0:
            raise ValueError(f"{name} must be at least 0, not {size}")
        return size
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", size)
    unit = _UNITS.get(found[2].upper()) if found else None
    if not found or unit is None:
        raise ValueError(
            f"{name} must be a number of bytes, or a string like '256MiB', not {size!r}"
        )
    return int(float(found[1]) * unit)


def configure(
    *,
    native_threads: int | None = None,
    native_queue: str = "fifo",
    max_native_queue: int | None = None,
    bus_capacity: int | str | None = "256MiB",
    bus_policy: str = "error",
    memory: int | str | None = None,
    job_memory: int | str | None = None,
    job_items: int | None = None,
) -> None:
    """Set sizes and limits of the process-wide native engine.

    It runs the kernels of all loops without an engine of their own. It is made on first use; after
    that this function raises `RuntimeError`. The defaults are one thread per processor, 65,536
    queued jobs, a bus of 256 MiB, no limit for the memory of results or of one job, and 1,048,576
    emitted items of one job that nobody has taken.
    """
    _set_default_engine(
        NativeEngine(
            native_threads=native_threads,
            native_queue=native_queue,
            max_native_queue=max_native_queue,
            bus_capacity=parse_size("bus_capacity", bus_capacity),
            bus_policy=bus_policy,
            memory=parse_size("memory", memory),
            job_memory=parse_size("job_memory", job_memory),
            job_items=job_items,
        )
    )
