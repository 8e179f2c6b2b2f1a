"""Reading and writing files in parallel threads."""

from __future__ import annotations

import builtins
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from .work import WorkItem

if TYPE_CHECKING:
    import os

    from ..engine.task_handle import TaskHandle

_Callback = Callable[..., None]
_Errback = Callable[[Any], None]


class _FileQueue:
    """Runs the operations on one file in the order of their submission."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: deque[WorkItem] = deque()
        self.busy = False

    def submit(self, item: WorkItem) -> None:
        with self.lock:
            if self.busy:
                self.waiting.append(item)
                return
            self.busy = True
        item.submit_in_order(self.next)

    def next(self) -> None:
        with self.lock:
            if not self.waiting:
                self.busy = False
                return
            item = self.waiting.popleft()
        item.submit_in_order(self.next)


_queues: weakref.WeakKeyDictionary[Any, _FileQueue] = weakref.WeakKeyDictionary()
_queues_lock = threading.Lock()


def _submit(
    file: Any,
    operation: Callable[[], Any],
    callback: _Callback | None,
    errback: _Errback | None,
    name: str,
) -> TaskHandle[Any]:
    with _queues_lock:
        queue = _queues.setdefault(file, _FileQueue())
    item = WorkItem(
        operation, None if callback is None else lambda value: callback(file, value), errback, name
    )
    queue.submit(item)
    return item


def open(
    filename: str | os.PathLike[str],
    mode: str = "rb",
    caching: int = 0,
    size: int = 0,
    template: Any = None,
) -> IO[bytes]:
    """Open a file for `write()` and `read()`; `mode` is `open()`'s, and binary.

    `caching`, `size` and `template` are ignored; they exist for compatibility.
    """
    binary = mode if "b" in mode else f"{mode}b"
    # Unbuffered: written data is in the file when the callback is called.
    return builtins.open(filename, binary, buffering=0)


def submit_write_io(
    file: Any,
    buf: Any,
    callback: Callable[[Any, int], None] | None = None,
    errback: _Errback | None = None,
) -> TaskHandle[int]:
    """Write all of a buffer to a file, then call `callback(file, number_of_bytes)`.

    Operations on one file run in the order of their submission. Otherwise like `submit_work()`.
    """
    view = memoryview(buf).cast("B")
    if not callable(getattr(file, "write", None)):
        raise TypeError(f"a file is expected, not {file!r}")

    def write() -> int:
        done = 0
        while done < len(view):
            count = file.write(view[done:])
            if not count:
                raise BlockingIOError(f"{file!r} accepts no data")
            done += count
        return done

    return _submit(file, write, callback, errback, "submit_write_io")


def submit_read_io(
    file: Any,
    callback: Callable[[Any, bytes], None] | None = None,
    nbytes: int = 0,
    errback: _Errback | None = None,
) -> TaskHandle[bytes]:
    """Read `nbytes` from a file, or with 0 to its end, then call `callback(file, data)`.

    It reads less only at the end of the file. Otherwise like `submit_write_io()`.
    """
    if not callable(getattr(file, "read", None)):
        raise TypeError(f"a file is expected, not {file!r}")
    if nbytes < 0:
        raise ValueError(f"a number of bytes is expected, not {nbytes}")

    def read() -> bytes:
        if not nbytes:
            return bytes(file.read())
        parts = []
        missing = nbytes
        while missing and (part := file.read(missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    return _submit(file, read, callback, errback, "submit_read_io")


write = submit_write_io
read = submit_read_io


def writefile(
    filename: str | os.PathLike[str],
    buf: Any,
    callback: Callable[[Any, int], None] | None = None,
    errback: _Errback | None = None,
) -> TaskHandle[int]:
    """Write a buffer to a new or existing file, then call `callback(filename, count)`."""
    view = memoryview(buf).cast("B")

    def write_all() -> int:
        with builtins.open(filename, "wb") as file:
            file.write(view)
        return len(view)

    item = WorkItem(
        write_all,
        None if callback is None else lambda count: callback(filename, count),
        errback,
        "writefile",
    )
    return item.submit(blocks=True)


def readfile(
    filename: str | os.PathLike[str],
    callback: Callable[[Any, bytes], None] | None = None,
    errback: _Errback | None = None,
) -> TaskHandle[bytes]:
    """Read a file, then call `callback(filename, data)`."""

    def read_all() -> bytes:
        with builtins.open(filename, "rb") as file:
            return file.read()

    item = WorkItem(
        read_all,
        None if callback is None else lambda data: callback(filename, data),
        errback,
        "readfile",
    )
    return item.submit(blocks=True)
