"""Arguments and results as parts of a message.

Numbers, strings and small buffers stand in the message itself, larger buffers in frames beside it.
Nothing is pickled.
"""

from __future__ import annotations

import ctypes
import operator
import struct
import sys
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

from .._core import Channel

INLINE = 4096
"""Buffers up to this number of bytes are copied into the message."""

# Formats that memoryview.cast() can make.
_FORMATS = frozenset("cbBhHiIlLqQnNfd?")


def encode(values: Iterable[Any], frames: list[Any], kernel: str) -> list[Any]:
    """Values as parts of a message. Large buffers are appended to `frames`, without a copy."""
    return [_encode(value, frames, kernel) for value in values]


def _encode(value: Any, frames: list[Any], kernel: str) -> Any:
    kind = type(value)
    if value is None or kind is float or kind is bool:
        return value
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 64 else ("int", hex(value))
    if kind is str:
        value.encode()  # Raises what the message would raise later.
        return value
    if kind is bytes and len(value) <= INLINE:
        return value
    if isinstance(value, Channel):
        raise TypeError(
            f"{kernel}: a channel is memory of this process, which a worker cannot reach; "
            "give the data as an argument"
        )
    if isinstance(value, Integral):
        return _encode(int(value), frames, kernel)
    if isinstance(value, Real):
        return float(value)
    try:
        view = memoryview(value)
    except TypeError:
        return _encode_number(value, frames, kernel)
    return _encode_buffer(value, view, frames, kernel)


def _encode_number(value: Any, frames: list[Any], kernel: str) -> Any:
    if isinstance(value, str):
        return _encode(str(value), frames, kernel)
    if hasattr(value, "__index__"):
        return _encode(operator.index(value), frames, kernel)
    if hasattr(value, "__float__"):
        return float(value)
    raise TypeError(
        f"{kernel}: expected None, a number, a str, or an object with a buffer, "
        f"got {type(value).__name__}"
    )


def _encode_buffer(value: Any, view: memoryview, frames: list[Any], kernel: str) -> Any:
    if not view.c_contiguous:
        raise ValueError(f"{kernel}: the buffer is not C-contiguous")
    kind, shape = view.format.removeprefix("@"), tuple(view.shape or ())
    if view.nbytes == 0:
        flat = memoryview(b"")
    elif kind in _FORMATS:
        flat = view.cast("B")
    else:
        flat = memoryview(value.reshape(-1).view("u1") if hasattr(value, "reshape") else b"")
    if kind not in _FORMATS:
        dtype = getattr(value, "dtype", None)
        if dtype is None or dtype.hasobject or dtype.names is not None:
            raise TypeError(
                f"{kernel}: elements of format {kind!r} cannot travel; give their bytes"
            )
        kind = dtype.str
    if flat.nbytes <= INLINE:
        data: Any = flat.tobytes()
        if kind == "B" and len(shape) == 1:
            return data
    else:
        data = len(frames)
        frames.append(flat)
    return "buffer", kind, None if len(shape) == 1 else shape, data


def decode(parts: Sequence[Any], frames: Sequence[Any]) -> list[Any]:
    """The values of the parts of a message. Buffers are read-only memoryviews."""
    return [part if type(part) is not tuple else _decode(part, frames) for part in parts]


def _decode(part: tuple[Any, ...], frames: Sequence[Any]) -> Any:
    if part[0] == "int":
        return int(part[1], 16)
    _, kind, shape, data = part
    view = memoryview(data if type(data) is bytes else frames[data])
    if len(kind) > 1:
        numpy = sys.modules.get("numpy") or __import__("numpy")
        array = numpy.frombuffer(view, numpy.dtype(kind))
        return memoryview(array if shape is None else array.reshape(shape)).toreadonly()
    size = struct.calcsize(kind)
    if type(data) is not bytes and size > 1:
        view = _align(view, size)
    if shape and view.nbytes:
        return view.cast("B").cast(kind, shape).toreadonly()
    if shape == ():
        return view.cast("B").cast(kind, ()).toreadonly()
    return view.cast("B").cast(kind).toreadonly()


def _align(view: memoryview, size: int) -> memoryview:
    """The view, or a copy if kernels cannot use elements of `size` bytes where it begins."""
    try:
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    except TypeError:
        # It is read-only, which ctypes does not accept.
        return memoryview(bytes(view))
    return view if address % size == 0 else memoryview(bytes(view))
