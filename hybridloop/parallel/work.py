"""Submitting work, and `run()`, which waits for it and raises its errors."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from ..engine import Engine
from ..runner import readable, wait_ready

if TYPE_CHECKING:
    from types import TracebackType

    from ..handle import TaskHandle

_T = TypeVar("_T")
_Callback = Callable[[Any], None]
_ExcInfo = tuple[type[BaseException], BaseException, "TracebackType | None"]
_Errback = Callable[[_ExcInfo], None]

_thread = threading.local()


class AsyncRunCalledWithoutEventsError(RuntimeError):
    """`run_once()` was called with nothing submitted, so it would wait for ever."""


class _Job:
    """Something submitted: what is called, and the error that no errback has taken."""

    def __init__(
        self,
        func: Callable[..., Any],
        args: Any,
        kwds: Mapping[str, Any] | None,
        callback: _Callback | None,
        errback: _Errback | None,
    ) -> None:
        self.function = _bind(func, args, kwds)
        self.callback = callback
        self.errback = errback
        self.error: BaseException | None = None

    async def work(self, function: Callable[[], Any] | None = None) -> Any:
        """Call the function, or another in its place, and what follows."""
        _thread.parallel = True
        try:
            value = (function or self.function)()
            if inspect.isawaitable(value):
                value = await value
            if self.callback is not None:
                _refuse_value(self.callback(value))
        except Exception as error:
            if self.errback is None:
                self.error = error
            else:
                try:
                    _refuse_value(self.errback((type(error), error, error.__traceback__)))
                except Exception as second:
                    self.error = second
            raise
        return value


class _Runtime:
    """What is under way, and what waits for the thread in `run()`."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        # All that follows is guarded by it.
        self.outstanding = 0
        self.ended = 0
        self.errors: deque[BaseException] = deque()
        self.calls: deque[tuple[Callable[[], Any], Future[Any] | None]] = deque()
        self.engine: Engine | None = None

    def get_engine(self) -> Engine:
        with self.changed:
            if self.engine is None:
                self.engine = Engine(gil_threads=min(4, os.cpu_count() or 1))
                self.engine.start()
            return self.engine

    def submit(self, job: _Job, body: Coroutine[Any, Any, Any]) -> TaskHandle[Any]:
        engine = self.get_engine()
        with self.changed:
            self.outstanding += 1
        try:
            handle = engine.spawn(body)
        except BaseException:
            body.close()
            with self.changed:
                self.outstanding -= 1
            raise
        handle.add_done_callback(lambda handle: self.done(job, handle))
        return handle

    def done(self, job: _Job, handle: TaskHandle[Any]) -> None:
        # The errback has had its exception, or run() is to have it.
        handle._retrieved = True
        with self.changed:
            self.outstanding -= 1
            if job.error is None:
                self.ended += 1
            else:
                self.errors.append(job.error)
            self.changed.notify_all()

    def call(self, function: Callable[[], Any], result: Future[Any] | None) -> None:
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
                    return lambda: self.serve(function, result)
                if self.errors:
                    raise self.errors.popleft()
                if self.ended:
                    self.ended -= 1
                    return lambda: None
                if not self.outstanding:
                    return None
                self.changed.wait()

    def serve(self, function: Callable[[], Any], result: Future[Any] | None) -> None:
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


_runtime = _Runtime()


def _start_afresh() -> None:
    global _runtime
    _runtime = _Runtime()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


@atexit.register
def _close() -> None:
    if _runtime.engine is not None:
        _runtime.engine.close(timeout=1, cancel=True)


def _refuse_value(value: object) -> None:
    if value is not None:
        raise ValueError(f"non-None return value detected: {value!r}")


def _bind(
    function: Callable[..., Any], args: Any, kwds: Mapping[str, Any] | None
) -> Callable[[], Any]:
    if not callable(function):
        raise TypeError(f"a function is expected, not {function!r}")
    if args is None:
        args = ()
    elif not isinstance(args, Sequence) or isinstance(args, (str, bytes)):
        # One argument needs no tuple.
        args = (args,)
    return lambda: function(*args, **(kwds or {}))


def submit_work(
    func: Callable[..., Any],
    args: Any = None,
    kwds: Mapping[str, Any] | None = None,
    callback: _Callback | None = None,
    errback: _Errback | None = None,
) -> TaskHandle[Any]:
    """Call `func(*args, **kwds)` in a parallel thread, then `callback(result)` there.

    What `func` or `callback` raises goes to `errback((type, value, traceback))`. Callbacks have to
    return `None`, or that is a `ValueError`. What no errback takes, and what an errback raises, is
    raised by `run()`. The handle can be awaited for the function's result.
    """
    job = _Job(func, args, kwds, callback, errback)
    return _runtime.submit(job, job.work())


def submit_timer(
    timer: float,
    func: Callable[..., Any],
    args: Any = None,
    kwds: Mapping[str, Any] | None = None,
    callback: _Callback | None = None,
    errback: _Errback | None = None,
) -> TaskHandle[Any]:
    """As `submit_work()`, `timer` seconds from now."""
    delay = float(timer)
    if not delay >= 0:
        raise ValueError(f"a timer needs seconds from now, not {timer!r}")
    job = _Job(func, args, kwds, callback, errback)

    async def later() -> Any:
        await asyncio.sleep(delay)
        return await job.work()

    return _runtime.submit(job, later())


def submit_io(
    func: Callable[..., Any],
    args: Any = None,
    kwds: Mapping[str, Any] | None = None,
    callback: _Callback | None = None,
    errback: _Errback | None = None,
) -> TaskHandle[Any]:
    """As `submit_work()`, for a function that blocks: it gets a thread of its own meanwhile."""
    job = _Job(func, args, kwds, callback, errback)
    return _runtime.submit(job, job.work(lambda: asyncio.to_thread(job.function)))


def submit_wait(
    obj: Any,
    func: Callable[..., Any],
    args: Any = None,
    kwds: Mapping[str, Any] | None = None,
    callback: _Callback | None = None,
    errback: _Errback | None = None,
    *,
    timeout: float | None = None,
) -> TaskHandle[Any]:
    """As `submit_work()`, once `obj` is ready.

    `obj` is a `threading.Event` or anything else with `wait(timeout)`, something with `fileno()`
    that can be read then, or an awaitable. After `timeout` seconds it is a `TimeoutError`.
    """
    job = _Job(func, args, kwds, callback, errback)
    if inspect.isawaitable(obj):
        waiting: Callable[[], Any] = lambda: asyncio.wait_for(obj, timeout)  # noqa: E731
    elif hasattr(obj, "fileno"):
        waiting = lambda: asyncio.wait_for(wait_ready(readable(obj)), timeout)  # noqa: E731
    elif callable(getattr(obj, "wait", None)):
        waiting = lambda: _wait_in_thread(obj, timeout)  # noqa: E731
    else:
        raise TypeError(f"something with wait(), fileno() or __await__() is expected, not {obj!r}")

    async def ready() -> Any:
        try:
            await waiting()
        except TimeoutError:
            raise TimeoutError(f"{obj!r} was not ready within {timeout} s") from None
        value = job.function()
        return await value if inspect.isawaitable(value) else value

    return _runtime.submit(job, job.work(ready))


async def _wait_in_thread(obj: Any, timeout: float | None) -> None:
    if not await asyncio.to_thread(obj.wait, timeout):
        raise TimeoutError


def call_from_main_thread(
    func: Callable[..., Any], args: Any = None, kwds: Mapping[str, Any] | None = None
) -> None:
    """Have the thread in `run()` call a function; its result is dropped, with a warning."""
    function = _bind(func, args, kwds)
    if is_parallel_thread():
        _runtime.call(function, None)
    else:
        _runtime.serve(function, None)


def call_from_main_thread_and_wait(
    func: Callable[..., _T], args: Any = None, kwds: Mapping[str, Any] | None = None
) -> _T:
    """Have the thread in `run()` call a function, wait, and return or raise what it does."""
    function = _bind(func, args, kwds)
    if not is_parallel_thread():
        value: _T = function()
        return value
    result: Future[_T] = Future()
    _runtime.call(function, result)
    return result.result()


def run() -> None:
    """Wait until everything that was submitted is done.

    Calls what parallel threads want to have called here. Raises the first error that no errback
    has taken; call it again for the next one, and for what is still under way.
    """
    while (event := _runtime.next_event()) is not None:
        event()


def run_once() -> None:
    """Wait for one event: something submitted is done, has failed, or wants a call made here.

    `AsyncRunCalledWithoutEventsError` if there is nothing to wait for.
    """
    event = _runtime.next_event()
    if event is None:
        raise AsyncRunCalledWithoutEventsError("nothing was submitted that could end")
    event()


def is_parallel_thread() -> bool:
    """Whether the caller runs in a parallel thread."""
    return getattr(_thread, "parallel", False)


def mode() -> str:
    """`"parallel"` if Python functions run at the same time, `"concurrent"` if they take turns."""
    is_gil_enabled = getattr(sys, "_is_gil_enabled", None)
    return "concurrent" if is_gil_enabled is None or is_gil_enabled() else "parallel"
