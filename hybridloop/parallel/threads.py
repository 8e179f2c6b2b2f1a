"""Parallel threads, and the pool of threads that run functions."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator

# Seconds after which an idle thread in excess of the pool's size ends.
_IDLE_TIMEOUT = 5.0

_local = threading.local()
_numbers = itertools.count(1)


def enter_parallel() -> None:
    """Make the current thread a parallel thread."""
    if getattr(_local, "number", None) is None:
        _local.number = next(_numbers)


def is_parallel_thread() -> bool:
    """Whether the current thread is a parallel thread."""
    return getattr(_local, "number", None) is not None


def thread_seq_id() -> int | None:
    """The number of the current parallel thread, from 1; `None` in other threads."""
    return getattr(_local, "number", None)


def mode() -> str:
    """`"parallel"` if Python functions run in parallel, `"concurrent"` if there is a GIL."""
    is_gil_enabled = getattr(sys, "_is_gil_enabled", None)
    return "concurrent" if is_gil_enabled is None or is_gil_enabled() else "parallel"


@contextlib.contextmanager
def blocking() -> Iterator[None]:
    """A context for blocking: meanwhile the pool may run another function."""
    pool: Pool | None = getattr(_local, "pool", None)
    if pool is None:
        yield
        return
    pool.begin_blocking()
    try:
        yield
    finally:
        pool.end_blocking()


class Pool:
    """Calls up to `size` functions at a time. Functions that block do not count."""

    def __init__(self, size: int) -> None:
        self._size = size
        # Guards what follows.
        self._changed = threading.Condition()
        # Functions, and whether each one blocks all the time.
        self._calls: deque[tuple[Callable[[], object], bool]] = deque()
        self._threads = 0
        self._idle = 0
        self._blocked = 0

    def call(self, function: Callable[[], object], *, blocks: bool = False) -> None:
        """Call `function` in a thread of the pool. It must not raise."""
        with self._changed:
            self._calls.append((function, blocks))
            try:
                self._dispatch()
            except RuntimeError:
                # No thread can be started; an existing one will call the function.
                if not self._threads:
                    self._calls.pop()
                    raise

    def begin_blocking(self) -> None:
        with self._changed:
            self._blocked += 1
            with contextlib.suppress(RuntimeError):
                self._dispatch()

    def end_blocking(self) -> None:
        with self._changed:
            self._blocked -= 1

    def _has_room(self) -> bool:
        return self._threads - self._idle - self._blocked < self._size

    def _dispatch(self) -> None:
        """Wake or start a thread if a call is waiting. The lock is held."""
        if not self._calls or not self._has_room():
            return
        if self._idle:
            self._changed.notify()
            return
        self._threads += 1
        thread = threading.Thread(
            target=self._run_calls, name=f"hybridloop-parallel-{self._threads}", daemon=True
        )
        try:
            thread.start()
        except BaseException:
            self._threads -= 1
            raise

    def _run_calls(self) -> None:
        enter_parallel()
        _local.pool = self
        while (taken := self._next_call()) is not None:
            function, blocks = taken
            function()
            if blocks:
                self.end_blocking()
            # Keep no references while the thread waits for the next call.
            del taken, function

    def _next_call(self) -> tuple[Callable[[], object], bool] | None:
        with self._changed:
            self._idle += 1
            while not (self._calls and self._has_room()):
                if (
                    not self._changed.wait(_IDLE_TIMEOUT)
                    and self._threads > self._size
                    and not self._calls
                ):
                    self._idle -= 1
                    self._threads -= 1
                    return None
            self._idle -= 1
            taken = self._calls.popleft()
            if taken[1]:
                self._blocked += 1
            with contextlib.suppress(RuntimeError):
                self._dispatch()
            return taken
