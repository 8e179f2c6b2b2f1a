"""The process-wide engine of native kernels: its sizes and its end."""

from __future__ import annotations

import atexit
import re

from .._core import NativeEngine, _close_default_engine, _set_default_engine

_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40} | {
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


def parse_size(name: str, size: int | str | None) -> int | None:
    """The number of bytes in `268435456` or `"256MiB"`, which is given as the argument `name`."""
    if size is None:
        return None
    if not isinstance(size, str):
        if not hasattr(size, "__index__"):
            raise TypeError(
                f"{name} must be a number of bytes, or text like '256MiB', not"
                f" {type(size).__name__}"
            )
        if size < 0:
            raise ValueError(f"{name} must be at least 0, not {size}")
        return size
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", size)
    unit = _UNITS.get(found[2].upper()) if found else None
    if not found or unit is None:
        raise ValueError(f"{name} must be a number of bytes, or text like '256MiB', not {size!r}")
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
) -> None:
    """Choose sizes and limits of the process-wide engine of native kernels.

    That engine runs the kernels of every loop that has no engine of its own, and is made when the
    first of them asks for it; from then on this raises `RuntimeError`. What is not given stays as
    it is by default: as many threads as there are processors, 65,536 jobs that may wait, a bus of
    256 MiB, and no limit to the memory of results or of one job.
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
        )
    )


atexit.register(_close_default_engine)
