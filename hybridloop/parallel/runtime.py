"""The state of this package, and `run()`, which waits for all work."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ..engine import Engine, signal_safe_wait
from .threads import Pool

if TYPE_CHECKING:
    from ..engine.task_handle import TaskHandle


class AsyncRunCalledWithoutEventsError(RuntimeError):
    """`run_once()` was called with nothing submitted, so it would never return."""


class Runtime:
    """Counts of outstanding work, and the calls and errors for the thread in `run()`."""

    def __init__(self) -> None:
        # Guards what follows.
        self.changed = threading.Condition()
        self.outstanding = 0
        self.ended = 0
        # For run(), by what has failed, in their order.
        self.errors: dict[object, BaseException] = {}
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
        """Work was submitted: `run()` waits for its `end()`."""
        with self.changed:
            self.outstanding += 1

    def end(self, error: BaseException | None = None, work: TaskHandle[Any] | None = None) -> None:
        """Work has ended; `run()` raises `error`, unless somebody has it."""
        with self.changed:
            self.outstanding -= 1
            # Who gets it from here on calls `retrieved()`.
            self.notify(None if work is not None and work._retrieved else error, work)

    def notify(self, error: BaseException | None = None, work: object = None) -> None:
        """An event for `run_once()`; an error is raised by `run()`."""
        with self.changed:
            if error is None:
                self.ended += 1
            else:
                self.errors[object() if work is None else work] = error
            self.changed.notify_all()

    def retrieved(self, work: object) -> None:
        """Somebody has the error of this work: `run()` does not raise it."""
        with self.changed:
            if self.errors.pop(work, None) is not None:
                self.ended += 1

    def call_in_main_thread(self, function: Callable[[], Any], result: Future[Any] | None) -> None:
        """Have the thread in `run()` call a function."""
        with self.changed:
            self.calls.append((function, result))
            self.changed.notify_all()

    def next_event(self) -> Callable[[], None] | None:
        """Wait for an event, and return a function to call for it.

        Returns `None` if no event is possible. Raises the error if the event is an error.
        """
        with self.changed:
            while True:
                if self.calls:
                    function, result = self.calls.popleft()
                    return lambda: run_main_thread_call(function, result)
                if self.errors:
                    raise self.errors.pop(next(iter(self.errors)))
                if self.ended:
                    self.ended -= 1
                    return lambda: None
                if not self.outstanding:
                    return None
                self.changed.wait(signal_safe_wait.MAX_WAIT)


def run_main_thread_call(function: Callable[[], Any], result: Future[Any] | None) -> None:
    """Call a function for a parallel thread."""
    if result is None:
        if (value := function()) is not None:
            warnings.warn(
                f"call_from_main_thread() ignores the result of the function: {value!r}",
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
    """The runtime of this process."""
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


def _check_no_loop(name: str) -> None:
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(f"{name}() would block the running loop; await the handles instead")


def run() -> None:
    """Wait until all submitted work is done, and all servers are shut down.

    Meanwhile it runs the calls of `call_from_main_thread()`. It raises the first error that no
    errback, no exception handler and nobody who waits for the handle gets; call it again for the
    next one, and for the remaining work. `RuntimeError` in a running loop, which it would block.
    """
    _check_no_loop("run")
    runtime = _runtime
    while (event := runtime.next_event()) is not None:
        event()


def run_once() -> None:
    """Wait for one event: submitted work that is done or has failed, or a call to be made here.

    `AsyncRunCalledWithoutEventsError` if there is nothing to wait for.
    """
    _check_no_loop("run_once")
    event = _runtime.next_event()
    if event is None:
        raise AsyncRunCalledWithoutEventsError("no work was submitted")
    event()
