"""Objects that threads may share.

`dict()`, `list()` and `object()` make protected objects: each operation takes a read-write lock. A
parallel thread may fill an empty slot, but not overwrite one.
"""

from __future__ import annotations

import builtins
import functools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from contextlib import contextmanager
from typing import Any, SupportsIndex, TypeVar

from .guards import (
    Guard,
    Guarded,
    Lock,
    ProtectionError,
    find_guard,
    remove_guard,
    set_guard,
    write_lock,
)
from .threads import blocking, is_parallel_thread

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])


class UnprotectedError(RuntimeError):
    """A parallel thread tried to change an object that is not protected."""


class AssignmentError(RuntimeError):
    """A parallel thread tried to overwrite a slot that has a value."""


# The slots with values of parallel threads, by the guards of their objects.
_written_slots: weakref.WeakKeyDictionary[Guard, set[Any]] = weakref.WeakKeyDictionary()
_written_slots_lock = threading.Lock()


def persisted_contexts() -> int:
    """The number of values of parallel threads in slots of protected objects."""
    with _written_slots_lock:
        return sum(len(slots) for slots in _written_slots.values())


def _record_slot(guard: Guard | None, slot: builtins.object, value: builtins.object) -> None:
    """Record that a slot got a value; `None` if it lost its value."""
    if guard is None:
        return
    with _written_slots_lock:
        if value is not None and is_parallel_thread():
            _written_slots.setdefault(guard, set()).add(slot)
        elif (slots := _written_slots.get(guard)) is not None:
            slots.discard(slot)


@contextmanager
def _read_locked(guard: Guard | None) -> Iterator[None]:
    if guard is None:
        yield
        return
    guard.lock.acquire_read()
    try:
        yield
    finally:
        guard.lock.release_read()


@contextmanager
def _write_locked(guard: Guard | None, obj: builtins.object) -> Iterator[None]:
    if guard is None:
        if is_parallel_thread():
            raise UnprotectedError(
                f"a parallel thread cannot change a {type(obj).__name__} that is not protected;"
                " protect() it"
            )
        yield
        return
    guard.lock.acquire_write()
    try:
        yield
    finally:
        guard.lock.release_write()


def _check_free(slot: builtins.object, value: builtins.object) -> None:
    if value is not None and is_parallel_thread():
        raise AssignmentError(f"slot {slot!r} has a value already: {value!r}")


class _Container(Guarded):
    """A container with a guard; without one after `unprotect()`."""

    def __init__(self) -> None:
        self._guard = Guard()


class dict(_Container, MutableMapping[Any, Any]):
    """A protected mapping, with the arguments of the built-in `dict`."""

    def __init__(self, *args: Any, **kwds: Any) -> None:
        super().__init__()
        self._data = builtins.dict(*args, **kwds)

    def __repr__(self) -> str:
        return f"parallel.dict({self._data!r})"

    def __getitem__(self, key: Any) -> Any:
        with _read_locked(self._guard):
            return self._data[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        with _write_locked(self._guard, self):
            _check_free(key, self._data.get(key))
            self._data[key] = value
            _record_slot(self._guard, key, value)

    def __delitem__(self, key: Any) -> None:
        with _write_locked(self._guard, self):
            _check_free(key, self._data.get(key))
            del self._data[key]
            _record_slot(self._guard, key, None)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over a copy of the keys."""
        with _read_locked(self._guard):
            return iter(builtins.list(self._data))

    def __len__(self) -> int:
        with _read_locked(self._guard):
            return len(self._data)

    def __eq__(self, other: builtins.object) -> bool:
        with _read_locked(self._guard):
            if isinstance(other, dict):
                other = other._data
            return isinstance(other, Mapping) and self._data == other

    __hash__ = None  # type: ignore[assignment]


class list(_Container, MutableSequence[Any]):
    """A protected sequence, with the arguments of the built-in `list`."""

    def __init__(self, iterable: Iterable[Any] = ()) -> None:
        super().__init__()
        # Each item is in a list of its own, which identifies the slot when items move.
        self._slots = [[item] for item in iterable]

    def __repr__(self) -> str:
        return f"parallel.list({[slot[0] for slot in self._slots]!r})"

    def __getitem__(self, index: Any) -> Any:
        with _read_locked(self._guard):
            found = self._slots[index]
            return [slot[0] for slot in found] if isinstance(index, slice) else found[0]

    def __setitem__(self, index: Any, value: Any) -> None:
        with _write_locked(self._guard, self):
            old = self._slots[index]
            if not isinstance(index, slice):
                _check_free(index, old[0])
                old[0] = value
                self._mark(old)
                return
            for slot in old:
                _check_free(index, slot[0])
            new = [[item] for item in value]
            self._slots[index] = new
            self._clear(old)
            for slot in new:
                self._mark(slot)

    def __delitem__(self, index: Any) -> None:
        with _write_locked(self._guard, self):
            old = self._slots[index] if isinstance(index, slice) else [self._slots[index]]
            for slot in old:
                _check_free(index, slot[0])
            del self._slots[index]
            self._clear(old)

    def __len__(self) -> int:
        with _read_locked(self._guard):
            return len(self._slots)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over a copy of the items."""
        with _read_locked(self._guard):
            return iter([slot[0] for slot in self._slots])

    def __eq__(self, other: builtins.object) -> bool:
        with _read_locked(self._guard):
            if isinstance(other, list):
                other = builtins.list(other)
            return [slot[0] for slot in self._slots] == other

    __hash__ = None  # type: ignore[assignment]

    def insert(self, index: SupportsIndex, value: Any) -> None:
        """Insert before `index`."""
        with _write_locked(self._guard, self):
            slot = [value]
            self._slots.insert(index, slot)
            self._mark(slot)

    def sort(self, *, key: Callable[[Any], Any] | None = None, reverse: bool = False) -> None:
        """Sort in place, like the built-in `list`; `AssignmentError` in a parallel thread."""
        with _write_locked(self._guard, self):
            for slot in self._slots:
                _check_free("of a list to sort", slot[0])
            if key is None:
                self._slots.sort(key=lambda slot: slot[0], reverse=reverse)
            else:
                self._slots.sort(key=lambda slot: key(slot[0]), reverse=reverse)

    def _mark(self, slot: builtins.list[Any]) -> None:
        _record_slot(self._guard, id(slot), slot[0])

    def _clear(self, slots: builtins.list[builtins.list[Any]]) -> None:
        for slot in slots:
            _record_slot(self._guard, id(slot), None)


def _guarded_class(cls: Any) -> type:
    """The class for protected objects of a class: a subclass with the same name."""
    for known in cls.__subclasses__():
        if "_guards_attributes" in vars(known):
            return known  # type: ignore[no-any-return]

    class GuardedObject(cls):  # type: ignore[misc]
        __slots__ = ()
        _guards_attributes = True

        def __getattribute__(self, name: str) -> Any:
            if name[:2] == "__":
                return super().__getattribute__(name)
            with _read_locked(find_guard(self)):
                return super().__getattribute__(name)

        def __setattr__(self, name: str, value: Any) -> None:
            guard = find_guard(self)
            with _write_locked(guard, self):
                if is_parallel_thread():
                    _check_free(name, getattr(self, name, None))
                super().__setattr__(name, value)
                _record_slot(guard, name, value)

        def __delattr__(self, name: str) -> None:
            guard = find_guard(self)
            with _write_locked(guard, self):
                if is_parallel_thread():
                    _check_free(name, getattr(self, name, None))
                super().__delattr__(name)
                _record_slot(guard, name, None)

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(GuardedObject, name, getattr(cls, name))
    return GuardedObject


class object:
    """A protected object with the attributes given."""

    def __init__(self, **kwds: Any) -> None:
        self.__dict__.update(kwds)
        protect(self)

    def __repr__(self) -> str:
        attributes = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"parallel.object({attributes})"


def protect(obj: _T) -> _T:
    """Protect an object that threads share, and return it.

    An object of a class written in Python gets a lock, its attributes become slots, and its class
    becomes a subclass with the same name. A built-in `object()` gets a lock only, and is kept alive
    until `unprotect()`. Objects of `dict()`, `list()` and `object()` are protected from the start
    and can be protected again after `unprotect()`. Anything else is a `ProtectionError`.
    """
    if find_guard(obj) is not None:
        return obj
    if isinstance(obj, _Container):
        obj._guard = Guard()
        return obj
    if type(obj) is not builtins.object and not hasattr(type(obj), "_guards_attributes"):
        try:
            obj.__class__ = _guarded_class(type(obj))
        except TypeError:
            raise ProtectionError(
                f"a {type(obj).__name__} cannot be protected; use dict(), list() or object() of"
                " hybridloop.parallel"
            ) from None
    set_guard(obj)
    return obj


def unprotect(obj: _T) -> _T:
    """Remove the protection, and return the object. Parallel threads cannot change it any more."""
    if find_guard(obj) is None:
        raise ProtectionError(f"{obj!r} is not protected")
    if isinstance(obj, _Container):
        obj._guard = None
    else:
        remove_guard(obj)
    return obj


def protected(obj: builtins.object) -> bool:
    """Whether an object is protected."""
    return find_guard(obj) is not None


def critical_section(function: _F) -> _F:
    """A decorator: only one thread at a time runs the function, which may call itself."""
    lock = threading.RLock()

    @functools.wraps(function)
    def alone(*args: Any, **kwds: Any) -> Any:
        if not lock.acquire(blocking=False):
            with blocking():
                lock.acquire()
        try:
            return function(*args, **kwds)
        finally:
            lock.release()

    return alone  # type: ignore[return-value]


_global_lock = Lock()


@contextmanager
def synchronized(obj: builtins.object = None) -> Iterator[None]:
    """Hold the write lock of a protected object, or a global lock if there is no object."""
    if obj is not None:
        with write_lock(obj):
            yield
        return
    _global_lock.acquire_write()
    try:
        yield
    finally:
        _global_lock.release_write()
