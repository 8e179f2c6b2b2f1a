"""What is under way, and `run()`, which waits for it."""

from __future__ import annotations

import atexit
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..engine import Engine, signal_safe_wait
from .threads import Pool


class AsyncRunCalledWithoutEventsError(RuntimeError):
    """`run_once()` was called with nothing submitted, so it would wait for ever."""


class Runtime:
    """What is under way, and what waits for the thread in `run()`."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        # What follows is guarded by it.
        self.outstanding = 0
        self.ended = 0
        self.errors: deque[BaseException] = deque()
        self.calls: deque[tuple[Callable[[], Any], Future[Any] | None]] = deque()
        self.engine: Engine | None = None
        self.threads = min(4, os.cpu_count() or 1)
        self.pool = Pool(self.threads)

    def get_engine(self) -> Engine:
        with self.changed:
            if self.engine is None:
                self.engine = Engine(gil_threads=self.threads)
                self.engine.start()
            return self.engine

    def begin(self) -> None:
        """Something is under way now: `run()` waits for its `end()`."""
        with self.changed:
            self.outstanding += 1

    def end(self, error: BaseException | None = None) -> None:
        """It has ended; `run()` raises `error`."""
        with self.changed:
            self.outstanding -= 1
            self.notify(error)

    def notify(self, error: BaseException | None = None) -> None:
        """Something has happened that ends `run_once()`; with an error, `run()` raises it."""
        with self.changed:
            if error is None:
                self.ended += 1
            else:
                self.errors.append(error)
            self.changed.notify_all()

    def call_in_main_thread(self, function: Callable[[], Any], result: Future[Any] | None) -> None:
        """Have the thread in `run()` call a function."""
        with self.changed:
            self.calls.append((function, result))
            self.changed.notify_all()

    def next_event(self) -> Callable[[], None] | None:
        """Wait for an event; returns what is to be done for it, or `None` if none can come.

        Raises the error that is the event.
        """
        with self.changed:
            while True:
                if self.calls:
                    function, result = self.calls.popleft()
                    return lambda: run_main_thread_call(function, result)
                if self.errors:
                    raise self.errors.popleft()
                if self.ended:
                    self.ended -= 1
                    return lambda: None
                if not self.outstanding:
                    return None
                self.changed.wait(signal_safe_wait.MAX_WAIT)


def run_main_thread_call(function: Callable[[], Any], result: Future[Any] | None) -> None:
    """Call what a parallel thread wants to have called."""
    if result is None:
        if (value := function()) is not None:
            warnings.warn(
                f"call_from_main_thread() drops what the function returns: {value!r}",
                RuntimeWarning,
                stacklevel=4,
            )
        return
    try:
        result.set_result(function())
    except BaseException as error:
        result.set_exception(error)
        if not isinstance(error, Exception):
            raise


_runtime = Runtime()


def get_runtime() -> Runtime:
    """That of this process."""
    return _runtime


def _reset_runtime_after_fork() -> None:
    global _runtime
    _runtime = Runtime()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_runtime_after_fork)


@atexit.register
def _close_at_exit() -> None:
    if _runtime.engine is not None:
        _runtime.engine.close(timeout=1, cancel=True)


def run() -> None:
    """Wait until everything that was submitted is done, and every server is shut down.

    Calls what parallel threads want to have called here. Raises the first error that no errback or
    exception handler has taken; call it again for the next one, and for what is still under way.
    """
    runtime = _runtime
    while (event := runtime.next_event()) is not None:
        event()


def run_once() -> None:
    """Wait for one event: something submitted is done, has failed, or wants a call made here.

    `AsyncRunCalledWithoutEventsError` if there is nothing to wait for.
    """
    event = _runtime.next_event()
    if event is None:
        raise AsyncRunCalledWithoutEventsError("nothing was submitted that could end")
    event()
