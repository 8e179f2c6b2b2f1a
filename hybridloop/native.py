"""Native kernels from Python: which there are, and the engine that runs them."""

from __future__ import annotations

import atexit
import re
from collections.abc import Iterator, Mapping
from typing import Any

from . import _core
from ._core import Bus, Kernel, NativeBuffer, NativeEngine

_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40} | {
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


def parse_size(size: int | str) -> int:
    """The number of bytes in `268435456` or `"256MiB"`."""
    if not isinstance(size, str):
        return size
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", size)
    unit = _UNITS.get(found[2].upper()) if found else None
    if not found or unit is None:
        raise ValueError(f"not a size: {size!r}; write a number of bytes, or one like '256MiB'")
    return int(float(found[1]) * unit)


class _Kernels(Mapping[str, Kernel]):
    """All kernels by name: built-in ones, registered ones, and those of installed packages."""

    def __getitem__(self, name: str) -> Kernel:
        kernel = _core._get_kernel(name)
        if kernel is None:
            discover()
            kernel = _core._get_kernel(name)
        if kernel is None:
            raise KeyError(name)
        return kernel

    def __iter__(self) -> Iterator[str]:
        discover()
        return iter(_core._kernel_names())

    def __len__(self) -> int:
        discover()
        return len(_core._kernel_names())

    def __repr__(self) -> str:
        return f"<{len(self)} kernels>"


kernels: Mapping[str, Kernel] = _Kernels()


def discover() -> None:
    """Load the kernels of installed packages, the first time."""


def configure(
    *,
    native_threads: int | None = None,
    native_queue: str = "fifo",
    max_native_queue: int | None = None,
    bus_capacity: int | str | None = None,
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
    _core._set_default_engine(
        NativeEngine(
            native_threads=native_threads,
            native_queue=native_queue,
            max_native_queue=max_native_queue,
            bus_capacity=None if bus_capacity is None else parse_size(bus_capacity),
            bus_policy=bus_policy,
            memory=None if memory is None else parse_size(memory),
            job_memory=None if job_memory is None else parse_size(job_memory),
        )
    )


atexit.register(_core._close_default_engine)


class NativeMethods:
    """What a loop knows of its engine of native kernels."""

    _native_engine: NativeEngine | None = None
    _courier: _core.Courier | None = None

    @property
    def native_engine(self) -> NativeEngine:
        """The engine that runs this loop's kernels: the process-wide one unless another was set."""
        engine = self._native_engine
        if engine is None:
            engine = self._native_engine = _core._default_engine()
        return engine

    @native_engine.setter
    def native_engine(self, engine: NativeEngine) -> None:
        if not isinstance(engine, NativeEngine):
            raise TypeError(f"expected a NativeEngine, not {type(engine).__name__}")
        self._native_engine = engine

    def _close_courier(self) -> None:
        if self._courier is not None:
            self._courier.close()

    @property
    def bus(self) -> Bus:
        """The memory bus of the loop's engine."""
        return self.native_engine.bus

    def memory_bus_push(self, key: str | bytes, data: Any, size: int | None = None) -> None:
        """`bus.push()`."""
        self.bus.push(key, data, size)

    def memory_bus_pop(self, key: str | bytes) -> NativeBuffer:
        """`bus.pop()`, which removes nothing."""
        return self.bus.pop(key)
