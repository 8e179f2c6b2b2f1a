"""A list that parallel threads and kernels push to, and that owns what is in it."""

from __future__ import annotations

import os
import pickle
from typing import Any, Literal, Self

from .._core import Channel, NativeBuffer

# Of these, kernels see what Python has pushed.
_NATIVE_TYPES = frozenset((type(None), bool, float, str, bytes))
# These go through as bytes of which Python alone knows what they mean: after a mark that cannot be
# had by chance.
_PICKLED_TYPES = frozenset((int, bytearray, complex, tuple, frozenset))
_PICKLE_MARK = os.urandom(16)


class xlist:
    """A list without locks to take, which clones what is pushed and owns the clone.

    Any thread may push and pop, and kernels do with `chan_push()` and `chan_pop()` when they are
    given `channel`. What can be cloned is `None`, `bool`, `int`, `float`, `complex`, `str`,
    `bytes`, `bytearray`, read-only buffers, and tuples and frozensets of those; anything else is a
    `ValueError` that names the type. Nothing of the thread that pushed is kept.

    With `order="lifo"` what came last leaves first, with `"fifo"` what came first. With
    `views=True` bytes leave as a `NativeBuffer` that shows the list's own memory, not as `bytes`.
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
        """Add a clone; `ValueError`, which names the type, for what cannot be cloned."""
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
                # Half a surrogate pair, which no native string has.
                self._channel.push(_pickle(value))
        elif kind in _PICKLED_TYPES:
            _check_cloneable(value)
            self._channel.push(_pickle(value))
        elif kind is NativeBuffer:
            self._channel.push(value)
        else:
            self._channel.push(_read_only(value))

    def pop(self, default: Any = None) -> Any:
        """Take a value, or get `default` if there is none now."""
        value = self._channel.pop(_EMPTY)
        return default if value is _EMPTY else self._unpickle(value)

    def drain(self) -> list[Any]:
        """Take all values that are in it now, in the order in which they leave."""
        return [self._unpickle(value) for value in self._channel.drain()]

    def flush(self) -> int:
        """Drop all values that are in it now; return how many these were."""
        return self._channel.flush()

    async def get(self, timeout: float | None = None) -> Any:
        """Take a value as soon as there is one; `TimeoutError` after `timeout` seconds."""
        return self._unpickle(await self._channel.get(timeout))

    def __len__(self) -> int:
        return len(self._channel)

    def __bool__(self) -> bool:
        """A list is something even if nothing is in it."""
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
    """`ValueError` unless a value and all that it consists of can be cloned."""
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
