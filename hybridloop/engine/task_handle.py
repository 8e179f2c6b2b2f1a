"""`TaskHandle`: a thread-safe handle of a task that runs on a thread of an engine."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ..generators import call_hint, drive
from . import signal_safe_wait

if TYPE_CHECKING:
    from contextvars import Context
    from types import TracebackType

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)

# Replaces the lock of a handle that is done and does not change any more.
_no_lock = nullcontext()


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


class TaskOwner(Protocol):
    """The interface of the scheduler for its handles."""

    def belongs_to_parent(self) -> bool: ...
    def check_process(self) -> None: ...
    def dequeue(self, handle: TaskHandle[Any]) -> bool: ...
    def find_loop(self, handle: TaskHandle[Any]) -> asyncio.AbstractEventLoop: ...


class TaskHandle(Generic[_T]):
    """A task that was spawned with `Engine.spawn()`.

    `await handle` returns the coroutine's result or raises its exception. It may be awaited several
    times, in any task of any asyncio loop in any thread. Cancelling a task that awaits the handle
    does not cancel the spawned task; `cancel()` does.
    """

    __slots__ = (
        "__weakref__",
        "_callbacks",
        "_context",
        "_coroutine",
        "_done",
        "_exception",
        "_lock",
        "_loop",
        "_name",
        "_on_finished",
        "_result",
        "_retrieved",
        "_scheduler",
        "_task",
        "_thread_waiters",
        "_traceback",
        "_waiters",
    )

    def __init__(
        self,
        scheduler: TaskOwner,
        coroutine: Coroutine[Any, Any, _T] | Generator[Any, Any, _T],
        context: Context,
        name: str | None,
    ) -> None:
        self._retrieved = True
        if not asyncio.iscoroutine(coroutine) and not inspect.isgenerator(coroutine):
            raise TypeError(
                f"a coroutine or a generator is expected, not {coroutine!r}{call_hint(coroutine)}"
            )
        self._scheduler = scheduler
        # Both are cleared when the task has ended.
        self._coroutine: Any = coroutine
        self._context: Any = context
        self._name = name
        self._lock: AbstractContextManager[Any] = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[_T] | None = None
        self._done = False
        self._result: Any = None
        self._exception: BaseException | None = None
        # That of the exception when the task ended: each raise would add to it.
        self._traceback: TracebackType | None = None
        # While it is not done: the waiting futures by their loops, and waiting threads.
        self._waiters: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] | None = None
        self._thread_waiters: list[threading.Event] | None = None
        self._callbacks: list[tuple[Callable[[TaskHandle[_T]], object], Context]] | None = None
        # Called on the loop's thread when the task has ended.
        self._on_finished: Callable[[TaskHandle[Any]], None] | None = None

    def __repr__(self) -> str:
        if self.cancelled():
            state = "cancelled"
        elif self._done:
            state = "finished" if self._exception is None else f"raised {self._exception!r}"
        else:
            state = "waiting" if self._task is None else "running"
        return f"<TaskHandle {self.get_name()} {state}>"

    def __del__(self) -> None:
        if not self._retrieved:
            _logger.error(
                "the exception of %s was never retrieved", self.get_name(), exc_info=self._exception
            )

    def get_name(self) -> str:
        """The name given to `spawn()`, or the coroutine function's."""
        # Read first: another thread sets the name before it clears the coroutine.
        coroutine = self._coroutine
        if self._name is None:
            self._name = str(getattr(coroutine, "__qualname__", None) or "task")
        return self._name

    def done(self) -> bool:
        """Whether the task has ended: with a result, with an exception, or cancelled."""
        return self._done

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self._done and isinstance(self._exception, asyncio.CancelledError)

    def cancel(self, msg: str | None = None) -> bool:
        """Cancel the task, and return whether that was possible. A queued task never runs.

        `False` if the task has ended, or in a forked child, where it does not exist.
        """
        if self._scheduler.belongs_to_parent():
            return False
        with self._lock:
            if self._done:
                return False
            loop = self._loop
        if loop is None:
            if self._scheduler.dequeue(self):
                self._resolve(None, asyncio.CancelledError(*(() if msg is None else (msg,))))
                return True
            # It is in an inbox, or was just started.
            loop = self._loop or self._scheduler.find_loop(self)
        try:
            loop.call_soon_threadsafe(self._cancel_task, msg)
        except RuntimeError:
            # The loop is closed, and so the handle is done.
            return False
        return True

    def _cancel_task(self, msg: str | None) -> None:
        if self._task is not None:
            self._task.cancel(msg)

    def result(self, timeout: float | None = None) -> _T:
        """Wait up to `timeout` seconds for the result, in a thread without a running loop.

        Raises the exception of the coroutine, `TimeoutError` after the timeout,
        `asyncio.InvalidStateError` if the wait would block a running loop, and
        `EngineClosedError` in a forked child if the task had not ended before the fork.
        """
        self._wait_blocking(timeout)
        return self._get_result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Like `result()`, for the exception of the coroutine; `None` if it raised none."""
        self._wait_blocking(timeout)
        self._retrieve()
        if isinstance(self._exception, asyncio.CancelledError):
            raise self._exception.with_traceback(self._traceback)
        return self._exception

    def add_done_callback(self, callback: Callable[[TaskHandle[_T]], object]) -> None:
        """Call `callback(handle)` when the task ends, in that thread, or now if it has ended.

        It sees the context variables that it would see now, as callbacks of asyncio do.
        """
        if not self._done:
            self._scheduler.check_process()
        with self._lock:
            if not self._done:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append((callback, copy_context()))
                return
        self._call(callback, copy_context())

    def __await__(self) -> Generator[Any, None, _T]:
        if not self._done:
            self._scheduler.check_process()
            yield from self._wait().__await__()
        return self._get_result()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        task = self._task
        if task is not None and task is asyncio.current_task(loop):
            raise RuntimeError(f"{self!r} cannot await itself")
        waiter: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._done:
                return
            if self._waiters is None:
                self._waiters = {}
            self._waiters.setdefault(loop, []).append(waiter)
        try:
            await waiter
        finally:
            with self._lock:
                waiters = self._waiters and self._waiters.get(loop)
                if waiters and waiter in waiters:
                    waiters.remove(waiter)

    def _wait_blocking(self, timeout: float | None) -> None:
        if self._done:
            return
        self._scheduler.check_process()
        if asyncio._get_running_loop() is not None:
            raise asyncio.InvalidStateError(
                "the task is not done, and waiting would block the running loop; use 'await handle'"
            )
        event = threading.Event()
        with self._lock:
            if self._done:
                return
            if self._thread_waiters is None:
                self._thread_waiters = []
            self._thread_waiters.append(event)
        try:
            if not signal_safe_wait.wait(event, timeout):
                raise TimeoutError(f"{self.get_name()} did not end within {timeout} s")
        finally:
            with self._lock:
                if self._thread_waiters is not None:
                    self._thread_waiters.remove(event)

    def _retrieve(self) -> None:
        """Somebody gets the exception."""
        self._retrieved = True

    def _get_result(self) -> _T:
        if self._exception is not None:
            self._retrieve()
            raise self._exception.with_traceback(self._traceback)
        result: _T = self._result
        return result

    def _start(
        self, loop: asyncio.AbstractEventLoop, finished: Callable[[TaskHandle[Any]], None]
    ) -> bool:
        """Create the task, in the thread of the loop; `False` if it was cancelled before."""
        with self._lock:
            if self._done:
                return False
            self._loop = loop
        coroutine = self._coroutine
        if inspect.isgenerator(coroutine):
            coroutine = drive(coroutine)
        self._on_finished = finished
        self._task = task = loop.create_task(coroutine, name=self._name, context=self._context)
        # Not in the context of the task, which callbacks may want to enter.
        task.add_done_callback(self._task_done)
        return True

    def _task_done(self, task: asyncio.Task[_T]) -> None:
        try:
            result = task.result()
        except BaseException as error:
            self._resolve(None, error)
        else:
            self._resolve(result, None)
        finished, self._on_finished = self._on_finished, None
        # Keep only the name and the result: the fewer references, the less work for the collector.
        self.get_name()
        self._task = self._context = self._coroutine = None
        self._lock = _no_lock
        if finished is not None:
            finished(self)

    def _resolve(self, result: Any, exception: BaseException | None) -> bool:
        """Set the result or the exception, unless the handle is done.

        Returns whether somebody waits for it.
        """
        with self._lock:
            if self._done:
                return False
            self._result = result
            self._exception = exception
            self._traceback = None if exception is None else exception.__traceback__
            self._retrieved = exception is None or isinstance(exception, asyncio.CancelledError)
            self._done = True
            waiters, self._waiters = self._waiters, None
            threads, self._thread_waiters = self._thread_waiters, None
            callbacks, self._callbacks = self._callbacks, None
            begun = self._task is not None
        if not begun:
            # The coroutine will never run.
            self._coroutine.close()
        if waiters:
            for loop, futures in waiters.items():
                # RuntimeError: the loop is closed, and nothing waits on it.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(_wake, futures)
        for event in threads or ():
            event.set()
        for callback, context in callbacks or ():
            self._call(callback, context)
        return any((waiters or {}).values()) or bool(threads)

    def _call(self, callback: Callable[[TaskHandle[_T]], object], context: Context) -> None:
        try:
            context.run(callback, self)
        except Exception:
            _logger.exception("exception in callback %r of %r", callback, self)
