"""The native engine of a loop."""

from __future__ import annotations

from .._core import Bus, NativeBuffer, NativeEngine, _default_engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class NativeMixin:
    """The part of the loop that gives access to its native engine and memory bus."""

    _native_engine: NativeEngine | None

    @property
    def native_engine(self) -> NativeEngine:
        """The engine that runs this loop's kernels; the process-wide engine unless one was set."""
        engine = self._native_engine
        if engine is None:
            engine = self._native_engine = _default_engine()
        return engine

    @native_engine.setter
    def native_engine(self, engine: NativeEngine) -> None:
        if not isinstance(engine, NativeEngine):
            raise TypeError(f"expected a NativeEngine, not {type(engine).__name__}")
        self._native_engine = engine

    @property
    def bus(self) -> Bus:
        """The memory bus of the loop's engine."""
        return self.native_engine.bus

    def memory_bus_push(self, key: str | bytes, data: Any, size: int | None = None) -> None:
        """`bus.push()`."""
        self.bus.push(key, data, size)

    def memory_bus_pop(self, key: str | bytes) -> NativeBuffer:
        """`bus.pop()`; it does not remove the key."""
        return self.bus.pop(key)
