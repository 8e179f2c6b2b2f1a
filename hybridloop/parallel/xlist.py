"""`xlist`: a list that threads and kernels share, and that owns its values."""

from __future__ import annotations

import os
import pickle
from typing import Any, Literal, Self

from .._core import Channel, NativeBuffer

# These are pushed as values that kernels can read.
_NATIVE_TYPES = frozenset((type(None), bool, float, str, bytes))
# These are pushed as pickled bytes after a random mark, which kernels cannot read.
_PICKLED_TYPES = frozenset((int, bytearray, complex, tuple, frozenset))
_PICKLE_MARK = os.urandom(16)


class xlist:
    """A thread-safe list that owns clones of the pushed values.

    Any thread may push and pop. Kernels use `chan_push()` and `chan_pop()` with `channel` as an
    argument. Values that can be cloned are `None`, `bool`, `int`, `float`, `complex`, `str`,
    `bytes`, `bytearray`, read-only buffers, and tuples and frozensets of those; anything else is a
    `ValueError`.

    The order is last in, first out with `order="lifo"`, and first in, first out with `"fifo"`. With
    `views=True`, bytes are returned as a `NativeBuffer` on the list's memory, without a copy.
    """

    __slots__ = ("_channel", "_views")

    def __init__(self, order: Literal["lifo", "fifo"] = "lifo", *, views: bool = False) -> None:
        self._channel = Channel(order)
        self._views = views

    @property
    def channel(self) -> Channel:
        """The list as an argument for kernels."""
        return self._channel

    @property
    def order(self) -> str:
        """`"lifo"` or `"fifo"`."""
        return self._channel.order

    def push(self, value: Any) -> None:
        """Add a clone of a value; `ValueError` if its type cannot be cloned."""
        kind = type(value)
        if kind is int:
            try:
                self._channel.push(value)
            except OverflowError:
                self._channel.push(_pickle(value))
        elif kind in _NATIVE_TYPES:
            try:
                self._channel.push(value)
            except UnicodeEncodeError:
                # A lone surrogate, which UTF-8 cannot encode.
                self._channel.push(_pickle(value))
        elif kind in _PICKLED_TYPES:
            _check_cloneable(value)
            self._channel.push(_pickle(value))
        elif kind is NativeBuffer:
            self._channel.push(value)
        else:
            self._channel.push(_read_only(value))

    def pop(self, default: Any = None) -> Any:
        """Remove and return a value, or return `default` if the list is empty."""
        value = self._channel.pop(_EMPTY)
        return default if value is _EMPTY else self._unpickle(value)

    def drain(self) -> list[Any]:
        """Remove and return all values, in the order of `pop()`."""
        return [self._unpickle(value) for value in self._channel.drain()]

    def flush(self) -> int:
        """Remove all values; return their number."""
        return self._channel.flush()

    async def get(self, timeout: float | None = None) -> Any:
        """Wait for a value and remove it; `TimeoutError` after `timeout` seconds."""
        return self._unpickle(await self._channel.get(timeout))

    def __len__(self) -> int:
        return len(self._channel)

    def __bool__(self) -> bool:
        """Always true, also for an empty list."""
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await self.get()

    def __repr__(self) -> str:
        return f"<xlist {self.order} of {len(self)} values>"

    def _unpickle(self, value: Any) -> Any:
        if type(value) is not NativeBuffer:
            return value
        view = memoryview(value)
        if view.nbytes > len(_PICKLE_MARK) and view[: len(_PICKLE_MARK)] == _PICKLE_MARK:
            return pickle.loads(view[len(_PICKLE_MARK) :])
        return value if self._views else bytes(view)


_EMPTY: Any = object()


def _pickle(value: Any) -> bytes:
    return _PICKLE_MARK + pickle.dumps(value, 5)


def _check_cloneable(value: Any) -> None:
    """`ValueError` unless a value and its items can be cloned."""
    kind = type(value)
    if kind is tuple or kind is frozenset:
        for item in value:
            _check_cloneable(item)
    elif kind not in _NATIVE_TYPES and kind not in _PICKLED_TYPES:
        raise ValueError(f"a {kind.__name__} cannot be cloned, so it cannot be pushed: {value!r}")


def _read_only(value: Any) -> memoryview:
    try:
        view = memoryview(value)
    except TypeError:
        view = None
    if view is None or not view.readonly:
        kind = type(value).__name__
        raise ValueError(f"a {kind} cannot be cloned, so it cannot be pushed: {value!r}")
    return view
