"""Guards of objects that threads share: a read-write lock, and an event."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from ..engine import signal_safe_wait
from .threads import blocking, is_parallel_thread

if TYPE_CHECKING:
    from types import TracebackType

_T = TypeVar("_T")


class ProtectionError(RuntimeError):
    """An object is not protected, or cannot be protected."""


class NoWaitersError(RuntimeError):
    """`signal()` was called for an object without a `wait()`, `prewait()` or `submit_wait()`."""


class WaitError(RuntimeError):
    """`wait()` would never return."""


class WaitTimeoutError(TimeoutError):
    """There was no signal before the timeout."""


class Lock:
    """A read-write lock. A writer may also read, and may lock again."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.readers: dict[int, int] = {}
        self.writer = 0
        self.depth = 0

    def acquire_read(self, wait: bool = True) -> bool:
        me = threading.get_ident()

        def free() -> bool:
            return self.writer in (0, me)

        with self.changed:
            if not free():
                if not wait:
                    return False
                with blocking():
                    signal_safe_wait.wait_for(self.changed, free, None)
            self.readers[me] = self.readers.get(me, 0) + 1
            return True

    def acquire_write(self, wait: bool = True) -> bool:
        me = threading.get_ident()

        def free() -> bool:
            return self.writer in (0, me) and all(it == me for it in self.readers)

        with self.changed:
            if me in self.readers and self.writer != me:
                raise RuntimeError("a thread with a read lock cannot take the write lock")
            if not free():
                if not wait:
                    return False
                with blocking():
                    signal_safe_wait.wait_for(self.changed, free, None)
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


_Waiter = Callable[[], object]


class AutoResetEvent:
    """An event that wakes one waiter: a current one, or else the next one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.signalled = False
        self.waiters: deque[_Waiter] = deque()

    def signal(self) -> None:
        while True:
            with self.lock:
                if not self.waiters:
                    self.signalled = True
                    return
                waiter = self.waiters.popleft()
            try:
                waiter()
                return
            except RuntimeError:
                # Its loop is closed: wake the next one.
                continue

    def add_waiter(self, waiter: _Waiter) -> _Waiter | None:
        """Call `waiter` on the next signal. If there was one, call it now and return `None`."""
        with self.lock:
            if not self.signalled:
                self.waiters.append(waiter)
                return waiter
            self.signalled = False
        waiter()
        return None

    def remove_waiter(self, waiter: _Waiter) -> bool:
        """Remove a waiter; `False` if it was called."""
        with self.lock:
            if waiter in self.waiters:
                self.waiters.remove(waiter)
                return True
            return False


class Guard:
    """The lock and the event of a protected object."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.event: AutoResetEvent | None = None


class Guarded:
    """An object with an attribute for its guard; `None` after `unprotect()`."""

    _guard: Guard | None


# Guards of other objects, by id(): (object or weak reference, guard).
_guards: dict[int, tuple[Any, Guard]] = {}


def set_guard(obj: Any) -> None:
    """Add a guard for an object that has no attribute for it."""
    key = id(obj)
    if type(obj) is object:
        # No weak reference is possible: it is kept alive until unprotect().
        _guards[key] = obj, Guard()
        return
    try:
        reference = weakref.ref(obj, lambda _: _guards.pop(key, None))
    except TypeError:
        raise ProtectionError(
            f"a {type(obj).__name__} cannot be protected; use dict(), list() or object() of"
            " hybridloop.parallel"
        ) from None
    _guards[key] = reference, Guard()


def remove_guard(obj: Any) -> None:
    """Remove the guard of such an object."""
    _guards.pop(id(obj), None)


def find_guard(obj: object) -> Guard | None:
    """The guard of an object, or `None`."""
    if isinstance(obj, Guarded):
        return obj._guard
    entry = _guards.get(id(obj))
    return None if entry is None else entry[1]


def get_event(obj: object) -> AutoResetEvent | None:
    """The event of an object, made on first use; `None` if the object is not protected."""
    guard = find_guard(obj)
    if guard is None:
        return None
    with guard.lock.changed:
        if guard.event is None:
            guard.event = AutoResetEvent()
        return guard.event


def _get_guard(obj: object) -> Guard:
    guard = find_guard(obj)
    if guard is None:
        raise ProtectionError(f"{obj!r} is not protected")
    return guard


class _LockContext(AbstractContextManager[None]):
    """A context manager that releases a lock at its end."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()


def read_lock(obj: object) -> AbstractContextManager[None]:
    """Take the read lock of a protected object; release it by `read_unlock()` or `with`."""
    lock = _get_guard(obj).lock
    lock.acquire_read()
    return _LockContext(lock.release_read)


def try_read_lock(obj: object) -> bool:
    """Like `read_lock()`, without waiting; `False` if the lock is not free."""
    return _get_guard(obj).lock.acquire_read(wait=False)


def read_unlock(obj: object) -> None:
    """Release the read lock; `RuntimeError` if this thread does not hold it."""
    _get_guard(obj).lock.release_read()


def write_lock(obj: object) -> AbstractContextManager[None]:
    """Take the write lock of a protected object; release it by `write_unlock()` or `with`."""
    lock = _get_guard(obj).lock
    lock.acquire_write()
    return _LockContext(lock.release_write)


def try_write_lock(obj: object) -> bool:
    """Like `write_lock()`, without waiting; `False` if the lock is not free."""
    return _get_guard(obj).lock.acquire_write(wait=False)


def write_unlock(obj: object) -> None:
    """Release the write lock; `RuntimeError` if this thread does not hold it."""
    _get_guard(obj).lock.release_write()


def prewait(obj: _T) -> _T:
    """Announce a `wait()` for a protected object, and return the object.

    A signal before the `wait()` is kept for it.
    """
    _get_guard(obj)
    get_event(obj)
    return obj


def signal(obj: object) -> None:
    """Wake one waiter of a protected object, or the next one.

    `NoWaitersError` unless there was a `wait()`, `prewait()` or `submit_wait()` for the object.
    """
    event = _get_guard(obj).event
    if event is None:
        raise NoWaitersError(f"nothing waits for {obj!r}")
    event.signal()


def _get_waitable_event(obj: object) -> AutoResetEvent:
    guard = _get_guard(obj)
    if guard.event is None and is_parallel_thread():
        raise WaitError(f"a parallel thread cannot wait for {obj!r} without prewait()")
    if (event := get_event(obj)) is None:
        raise ProtectionError(f"{obj!r} is not protected any more")
    return event


def wait(obj: object, timeout: float | None = None) -> None:
    """Wait for a signal of a protected object; `WaitTimeoutError` after `timeout` seconds.

    In a parallel thread it raises `WaitError` unless there was a `wait()`, `prewait()` or
    `submit_wait()` for the object.
    """
    wait_any((obj,), timeout)


def signal_and_wait(to_signal: object, to_wait_for: object, timeout: float | None = None) -> None:
    """Wake one waiter of the first object, then wait for the second."""
    if to_signal is to_wait_for:
        raise WaitError("an object cannot be signalled to wait for itself")
    _get_guard(to_signal)
    prewait(to_wait_for)
    signal(to_signal)
    wait(to_wait_for, timeout)


def wait_any(waits: Iterable[_T], timeout: float | None = None) -> _T:
    """Wait for a signal of any of several protected objects; return that object."""
    waits = tuple(waits)
    if not waits:
        raise WaitError("there is nothing to wait for")
    events = [_get_waitable_event(obj) for obj in waits]
    lock = threading.Lock()
    woken = threading.Event()
    winner: list[int] = []

    def waiter(index: int) -> Callable[[], None]:
        def signalled() -> None:
            with lock:
                won = not winner
                if won:
                    winner.append(index)
            if won:
                woken.set()
            else:
                # Another event was first: pass this signal on.
                events[index].signal()

        return signalled

    added: list[tuple[AutoResetEvent, _Waiter]] = []
    for index, event in enumerate(events):
        if (added_waiter := event.add_waiter(waiter(index))) is not None:
            added.append((event, added_waiter))
        if winner:
            break
    try:
        with blocking():
            in_time = signal_safe_wait.wait(woken, timeout)
    finally:
        for event, one in added:
            event.remove_waiter(one)
        with lock:
            late = not winner
            if late:
                # From now on signals are passed on.
                winner.append(-1)
    if not in_time and late:
        raise WaitTimeoutError(f"there was no signal within {timeout} s")
    return waits[winner[0]]


def wait_all(waits: Iterable[object], timeout: float | None = None) -> None:
    """Wait for a signal of each of several protected objects."""
    waits = tuple(waits)
    if not waits:
        raise WaitError("there is nothing to wait for")
    events = [_get_waitable_event(obj) for obj in waits]
    lock = threading.Lock()
    missing = len(events)
    woken = threading.Event()
    has_timed_out = False
    received: list[AutoResetEvent] = []

    def waiter(event: AutoResetEvent) -> Callable[[], None]:
        def signalled() -> None:
            nonlocal missing
            with lock:
                if not has_timed_out:
                    received.append(event)
                    missing -= 1
                    if not missing:
                        woken.set()
                    return
            event.signal()

        return signalled

    added = [(event, event.add_waiter(waiter(event))) for event in events]
    try:
        with blocking():
            signal_safe_wait.wait(woken, timeout)
    finally:
        with lock:
            has_timed_out = missing > 0
        for event, one in added:
            if one is not None:
                event.remove_waiter(one)
        if has_timed_out:
            # Pass the received signals on.
            for event in received:
                event.signal()
    if has_timed_out:
        raise WaitTimeoutError(f"there was no signal of {missing} objects within {timeout} s")
