"""Large buffers in messages of Dask: as frames, which Dask neither pickles nor compresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pickle import PickleBuffer
from typing import Any

from . import values

# Modules of Dask whose functions have no types.
_protocol: Any = import_module("distributed.protocol.serialize")
_sizes: Any = import_module("dask.sizeof")

_FAMILY = "hybridloop"


def _loads(header: Any, frames: list[Any]) -> list[Any]:
    return frames


_protocol.register_serialization_family(_FAMILY, None, _loads)


def with_frames(message: dict[str, Any], frames: list[Any]) -> dict[str, Any]:
    """A message with frames; its reader finds them under "frames"."""
    if frames:
        message["frames"] = _protocol.Serialized({"serializer": _FAMILY}, frames)
    return message


class Packed:
    """Plain values and frames, as an argument or a result of a task of Dask."""

    def __init__(self, content: Any, frames: Sequence[Any]) -> None:
        self.content = content
        self.frames = frames

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The data itself travels beside the pickle.
        return Packed, (self.content, [PickleBuffer(frame) for frame in self.frames])

    @property
    def nbytes(self) -> int:
        return sum(memoryview(frame).nbytes for frame in self.frames)

    @cached_property
    def value(self) -> Any:
        """The value that was packed alone; if it has to be aligned, this happens once."""
        (value,) = values.decode([self.content], self.frames)
        return value


def _dump(packed: Packed) -> tuple[Mapping[str, Any], list[Any]]:
    return {"content": packed.content}, list(packed.frames)


def _load(header: Mapping[str, Any], frames: list[Any]) -> Packed:
    return Packed(header["content"], frames)


def _size(packed: Packed) -> int:
    # Short values are in the content, which is of any size; this is for the accounts of Dask.
    return packed.nbytes + 1000


_protocol.dask_serialize.register(Packed, _dump)
_protocol.dask_deserialize.register(Packed, _load)
_sizes.sizeof.register(Packed, _size)
