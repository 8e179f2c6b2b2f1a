"""Containers that may be shared with parallel threads, and what guards them.

`dict()` and `list()` make containers that are protected: every operation takes a lock that many
readers or one writer hold. A parallel thread may fill a slot, but not overwrite what is in one.
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from contextlib import contextmanager
from typing import Any, TypeVar

from .work import is_parallel_thread

_C = TypeVar("_C", bound="_Container")


class ProtectionError(RuntimeError):
    """A lock was asked of an object that is not protected."""


class UnprotectedError(RuntimeError):
    """A parallel thread tried to change an object that is not protected."""


class AssignmentError(RuntimeError):
    """A parallel thread tried to overwrite what another has put in a slot."""


class _Lock:
    """Many readers or one writer; a writer may also read, and lock again."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.readers: builtins.dict[int, int] = {}
        self.writer = 0
        self.depth = 0

    def acquire_read(self, blocking: bool = True) -> bool:
        me = threading.get_ident()
        with self.changed:
            while self.writer not in (0, me):
                if not blocking:
                    return False
                self.changed.wait()
            self.readers[me] = self.readers.get(me, 0) + 1
            return True

    def acquire_write(self, blocking: bool = True) -> bool:
        me = threading.get_ident()
        with self.changed:
            if me in self.readers and self.writer != me:
                raise RuntimeError("a thread that reads cannot start to write")
            while self.writer not in (0, me) or any(it != me for it in self.readers):
                if not blocking:
                    return False
                self.changed.wait()
            self.writer = me
            self.depth += 1
            return True

    def release_read(self) -> None:
        me = threading.get_ident()
        with self.changed:
            if me not in self.readers:
                raise RuntimeError("this thread holds no read lock")
            self.readers[me] -= 1
            if not self.readers[me]:
                del self.readers[me]
                self.changed.notify_all()

    def release_write(self) -> None:
        with self.changed:
            if self.writer != threading.get_ident():
                raise RuntimeError("this thread holds no write lock")
            self.depth -= 1
            if not self.depth:
                self.writer = 0
                self.changed.notify_all()


class _Container:
    """A container with a lock; without one after `unprotect()`."""

    _lock: _Lock | None

    def __init__(self) -> None:
        self._lock = _Lock()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        lock = self._lock
        if lock is None:
            yield
            return
        lock.acquire_read()
        try:
            yield
        finally:
            lock.release_read()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        lock = self._lock
        if lock is None:
            if is_parallel_thread():
                raise UnprotectedError(f"a parallel thread cannot change {self!r}; protect() it")
            yield
            return
        lock.acquire_write()
        try:
            yield
        finally:
            lock.release_write()

    def _check_free(self, slot: object, value: object) -> None:
        if value is not None and is_parallel_thread():
            raise AssignmentError(f"slot {slot!r} has a value already: {value!r}")


class dict(_Container, MutableMapping[Any, Any]):
    """A protected mapping; takes what the built-in `dict` takes."""

    def __init__(self, *args: Any, **kwds: Any) -> None:
        super().__init__()
        self._data = builtins.dict(*args, **kwds)

    def __repr__(self) -> str:
        return f"parallel.dict({self._data!r})"

    def __getitem__(self, key: Any) -> Any:
        with self._reading():
            return self._data[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        with self._writing():
            self._check_free(key, self._data.get(key))
            self._data[key] = value

    def __delitem__(self, key: Any) -> None:
        with self._writing():
            self._check_free(key, self._data.get(key))
            del self._data[key]

    def __iter__(self) -> Iterator[Any]:
        """The keys of now; those that come meanwhile are not seen."""
        with self._reading():
            return iter(builtins.list(self._data))

    def __len__(self) -> int:
        with self._reading():
            return len(self._data)

    def __eq__(self, other: object) -> bool:
        with self._reading():
            if isinstance(other, dict):
                other = other._data
            return isinstance(other, Mapping) and self._data == other

    __hash__ = None  # type: ignore[assignment]


class list(_Container, MutableSequence[Any]):
    """A protected sequence; takes what the built-in `list` takes."""

    def __init__(self, iterable: Iterable[Any] = ()) -> None:
        super().__init__()
        self._data = builtins.list(iterable)

    def __repr__(self) -> str:
        return f"parallel.list({self._data!r})"

    def __getitem__(self, index: Any) -> Any:
        with self._reading():
            return self._data[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        with self._writing():
            old = self._data[index]
            for slot in old if isinstance(index, slice) else (old,):
                self._check_free(index, slot)
            self._data[index] = value

    def __delitem__(self, index: Any) -> None:
        with self._writing():
            self._check_free(index, self._data[index])
            del self._data[index]

    def __len__(self) -> int:
        with self._reading():
            return len(self._data)

    def __iter__(self) -> Iterator[Any]:
        """The items of now; those that come meanwhile are not seen."""
        with self._reading():
            return iter(self._data[:])

    def __eq__(self, other: object) -> bool:
        with self._reading():
            return self._data == (other._data if isinstance(other, list) else other)

    __hash__ = None  # type: ignore[assignment]

    def insert(self, index: int, value: Any) -> None:
        """Insert before `index`."""
        with self._writing():
            self._data.insert(index, value)


def protect(obj: _C) -> _C:
    """Give a container of `dict()` or `list()` its lock back; return it."""
    if not isinstance(obj, _Container):
        raise TypeError(
            f"only what parallel.dict() and parallel.list() make can be protected, not {obj!r}"
        )
    if obj._lock is None:
        obj._lock = _Lock()
    return obj


def unprotect(obj: _C) -> _C:
    """Take the lock away: parallel threads cannot change the container any more; return it."""
    _lock_of(obj)
    obj._lock = None
    return obj


def protected(obj: object) -> bool:
    """Whether an object has a lock."""
    return isinstance(obj, _Container) and obj._lock is not None


def _lock_of(obj: object) -> _Lock:
    if not isinstance(obj, _Container) or obj._lock is None:
        raise ProtectionError(f"{obj!r} is not protected")
    return obj._lock


def read_lock(obj: object) -> None:
    """Wait until nobody writes to a protected object; `read_unlock()` ends it."""
    _lock_of(obj).acquire_read()


def try_read_lock(obj: object) -> bool:
    """As `read_lock()`, or `False` at once."""
    return _lock_of(obj).acquire_read(blocking=False)


def read_unlock(obj: object) -> None:
    """Give back what `read_lock()` took; `RuntimeError` if this thread has not."""
    _lock_of(obj).release_read()


def write_lock(obj: object) -> None:
    """Wait until this thread alone uses a protected object; `write_unlock()` ends it."""
    _lock_of(obj).acquire_write()


def try_write_lock(obj: object) -> bool:
    """As `write_lock()`, or `False` at once."""
    return _lock_of(obj).acquire_write(blocking=False)


def write_unlock(obj: object) -> None:
    """Give back what `write_lock()` took; `RuntimeError` if this thread has not."""
    _lock_of(obj).release_write()
