"""`Engine`: coroutines on several threads, each with an event loop of its own.

`spawn()` places a coroutine on the thread with the least to do and gives a `TaskHandle`, which any
thread and any asyncio loop may wait for. No thread ever runs more than `tasks_per_thread` of them
at once; what comes beyond that waits in a bounded queue.

On a Python with a global interpreter lock the threads take turns: they keep one workload from
delaying another, and add no speed. On a free-threaded Python they run in parallel.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Coroutine, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from .handle import TaskHandle
from .loop import new_event_loop
from .stats import EngineStats, ThreadStats

if TYPE_CHECKING:
    from types import TracebackType

    from .loop import Loop

__all__ = ["Engine", "EngineClosedError", "EngineFullError", "TaskHandle"]

_T = TypeVar("_T")
_Queue = OrderedDict[TaskHandle[Any], None]

_logger = logging.getLogger(__name__)

# Counts forks on the way from the first process to this one.
_process = 0


def _count_fork() -> None:
    global _process
    _process += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)

# Of the time that close() has, the last quarter and at most this many seconds are for tasks to end
# after they were cancelled.
_CANCEL_TIME = 1.0


class EngineFullError(RuntimeError):
    """Every thread runs `tasks_per_thread` tasks, and `max_pending` more are waiting."""


class EngineClosedError(RuntimeError):
    """The engine has not been started, is closed, or was started by the parent of a fork."""


class _GilThread:
    """A Python thread with its loop; what is not the loop's is guarded by the engine's lock."""

    def __init__(self, engine: Engine, index: int) -> None:
        self.engine = engine
        # Tasks that run here or are on their way; never more than tasks_per_thread.
        self.load = 0
        # Pinned to this thread, waiting for a place.
        self.pinned: _Queue = OrderedDict()
        self.arriving: deque[TaskHandle[Any]] = deque()
        self.running: set[TaskHandle[Any]] = set()
        self.stopping = False
        self.failed = False
        self.loop: Loop = new_event_loop()
        self.thread = threading.Thread(
            target=self._main, name=f"hybridloop-gil-{index}", daemon=True
        )

    def _main(self) -> None:
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            while not self.stopping:
                try:
                    loop.run_forever()
                except (SystemExit, KeyboardInterrupt) as error:
                    # The task that raised it has it as its exception, and the others go on.
                    _logger.warning("%r in %s does not end the engine", error, self.thread.name)
                else:
                    if not self.stopping:
                        _logger.warning("the loop of %s was stopped; it goes on", self.thread.name)
            self._finish()
        except BaseException as error:
            _logger.critical("%s has failed", self.thread.name, exc_info=error)
            self.engine._thread_failed(self, error)
        finally:
            if not loop.is_closed():
                loop.close()

    def _finish(self) -> None:
        """End what tasks have started and left, as `asyncio.Runner` does.

        The executor is left to the closing of the loop, which does not wait for it: at the end of
        the process no thread can be started to do that.
        """
        loop = self.loop
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        for task in left:
            if not task.cancelled() and (error := task.exception()) is not None:
                loop.call_exception_handler(
                    {
                        "message": "unhandled exception while the engine was closing",
                        "exception": error,
                        "task": task,
                    }
                )
        loop.run_until_complete(loop.shutdown_asyncgens())

    def stop(self) -> None:
        self.stopping = True
        self.call(self.loop.stop)

    def call(self, function: Any, *args: Any) -> None:
        # If the loop is closed, the thread has ended.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *args)

    def receive(self) -> None:
        """Make tasks of what has arrived."""
        while self.arriving:
            handle = self.arriving.popleft()
            self.running.add(handle)
            try:
                started = handle._start(self.loop, self.ended)
            except Exception as error:
                # A task factory may refuse.
                handle._resolve(None, error)
                started = False
            if not started:
                self.ended(handle)

    def ended(self, handle: TaskHandle[Any]) -> None:
        """Let the next one in."""
        self.running.discard(handle)
        if self.engine._take_next(self):
            # Not at once: a row of tasks that end at their first step must not nest.
            self.loop.call_soon(self.receive)

    def cancel_all(self) -> None:
        for handle in list(self.running):
            handle._cancel_task("the engine is closing")


class Engine:
    """Several threads with a loop each, and one place to hand them coroutines.

    ::

        with hybridloop.Engine(gil_threads=2, tasks_per_thread=500) as engine:
            handle = engine.spawn(fetch("https://example.com"))
            page = handle.result()

    Args:
        gil_threads: Python threads, each with a `hybridloop.Loop`.
        tasks_per_thread: how many spawned tasks one thread runs at the same time.
        max_pending: how many more may wait for a place, in all.
    """

    def __init__(
        self, gil_threads: int = 1, tasks_per_thread: int = 1000, *, max_pending: int = 100_000
    ) -> None:
        for name, value, least in (
            ("gil_threads", gil_threads, 1),
            ("tasks_per_thread", tasks_per_thread, 1),
            ("max_pending", max_pending, 0),
        ):
            if not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        self._gil_threads = gil_threads
        self._tasks_per_thread = tasks_per_thread
        self._max_pending = max_pending
        # Guards all that follows and the counts and queues of the threads; held for a few
        # operations at a time, never while anything is called that could wait.
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._threads: list[_GilThread] = []
        self._pending: _Queue = OrderedDict()
        self._pending_count = 0
        self._room_waiters: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self._spawned = 0
        self._open = False
        self._closed = False
        self._process = _process

    def __repr__(self) -> str:
        state = "open" if self._open else "closed" if self._closed else "not started"
        return f"<Engine gil_threads={self._gil_threads} {state}>"

    def start(self) -> Engine:
        """Start the threads; does nothing if they run. `EngineClosedError` after `close()`."""
        with self._lock:
            if self._closed:
                raise EngineClosedError("the engine is closed; make a new one")
            if self._open:
                return self
            self._open = True
            self._process = _process
            try:
                for index in range(self._gil_threads):
                    self._threads.append(_GilThread(self, index))
            except OSError:
                # Out of descriptors: no loop stays behind.
                for thread in self._threads:
                    thread.loop.close()
                self._threads.clear()
                self._open = False
                raise
        for thread in self._threads:
            thread.thread.start()
        return self

    setup = start

    def spawn(
        self,
        coro: Coroutine[Any, Any, _T] | Generator[Any, Any, _T],
        *,
        thread: int | None = None,
        context: contextvars.Context | None = None,
        name: str | None = None,
    ) -> TaskHandle[_T]:
        """Run a coroutine, or a generator as `hybridloop.runner` does, on one of the threads.

        It goes to the thread with the least to do, or to number `thread`, and stays there. It runs
        in `context`, or a copy of the caller's. May be called in any thread.

        Raises `EngineFullError` if there is neither a place nor room to wait for one; the coroutine
        is untouched then. `EngineClosedError` unless the engine is open, `IndexError` for a thread
        that there is not, `TypeError` for anything but a coroutine or generator.
        """
        if context is None:
            context = contextvars.copy_context()
        handle = TaskHandle(self, coro, context, name)
        self._check_process()
        with self._lock:
            if not self._open:
                raise EngineClosedError("the engine is not open; use 'with engine:' or start()")
            target = self._least_loaded() if thread is None else self._numbered(thread)
            if target.load >= self._tasks_per_thread:
                if self._pending_count >= self._max_pending:
                    raise EngineFullError(
                        f"{self._tasks_per_thread} tasks run on each thread and {self._max_pending}"
                        " are waiting; use spawn_wait(), or raise tasks_per_thread or max_pending"
                    )
                (self._pending if thread is None else target.pinned)[handle] = None
                self._pending_count += 1
                self._spawned += 1
                return handle
            self._spawned += 1
            target.load += 1
            wake = not target.arriving
            target.arriving.append(handle)
        if wake:
            target.call(target.receive)
        return handle

    async def spawn_wait(
        self,
        coro: Coroutine[Any, Any, _T] | Generator[Any, Any, _T],
        *,
        thread: int | None = None,
        context: contextvars.Context | None = None,
        name: str | None = None,
    ) -> TaskHandle[_T]:
        """As `spawn()`, but wait for room instead of raising `EngineFullError`.

        If the wait is cancelled, the coroutine is closed.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                return self.spawn(coro, thread=thread, context=context, name=name)
            except EngineFullError:
                pass
            waiter: asyncio.Future[None] = loop.create_future()
            with self._lock:
                if self._open and self._pending_count < self._max_pending:
                    continue
                self._room_waiters.append((loop, waiter))
            try:
                await waiter
            except asyncio.CancelledError:
                with self._lock:
                    waits = (loop, waiter) in self._room_waiters
                    if waits:
                        self._room_waiters.remove((loop, waiter))
                    else:
                        # The room that this one was told of is the next one's.
                        self._tell_room()
                coro.close()
                raise

    def stats(self) -> EngineStats:
        """What runs on each thread, what waits, and what the loops have done. Works in any state,
        in any thread.
        """
        with self._lock:
            spawned, pending = self._spawned, self._pending_count
            counts = [(thread, thread.load, len(thread.pinned)) for thread in self._threads]
        places = self._tasks_per_thread
        threads = (
            ThreadStats(
                thread.thread.name,
                running,
                pinned,
                running / places,
                thread.failed,
                thread.loop.stats(),
            )
            for thread, running, pinned in counts
        )
        return EngineStats(tuple(threads), places, spawned, pending, self._max_pending)

    def close(self, timeout: float | None = None, *, cancel: bool = False) -> list[str]:
        """Take no more tasks, wait for those there are, and end the threads.

        After `timeout` seconds, or at once with `cancel`, tasks that have not ended are cancelled;
        the last quarter of the time, at most a second, is theirs to end in. What is still there
        when the time is over is left to itself, its handle gets `EngineClosedError`, and a
        `ResourceWarning` names it, as does the list returned. `RuntimeError` in a thread of the
        engine.
        """
        if any(thread.thread is threading.current_thread() for thread in self._threads):
            raise RuntimeError("an engine cannot be closed by one of its own threads")
        if self._process != _process:
            # The threads are the parent's, and so may be the lock's owner.
            self._closed = True
            return []
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            if self._closed:
                return []
            self._open = False
            self._closed = True
            while self._room_waiters:
                self._tell_room()
            if not cancel:
                patience = None
                if timeout is not None:
                    patience = timeout - min(timeout / 4, _CANCEL_TIME)
                cancel = not self._idle.wait_for(self._is_idle, patience)
        if cancel:
            self._cancel_everything()
            with self._lock:
                self._idle.wait_for(self._is_idle, self._left(deadline))
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.thread.join(self._left(deadline))
        return self._name_what_is_left()

    async def aclose(self, timeout: float | None = None, *, cancel: bool = False) -> list[str]:
        """As `close()`, without blocking the running loop."""
        return await asyncio.to_thread(self.close, timeout, cancel=cancel)

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(cancel=error is not None)

    async def __aenter__(self) -> Engine:
        return self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose(cancel=error is not None)

    # What follows down to _forget() is called with the lock held.

    def _least_loaded(self) -> _GilThread:
        alive = [thread for thread in self._threads if not thread.failed]
        if not alive:
            raise EngineClosedError("every thread of the engine has failed")
        return min(alive, key=lambda thread: thread.load) if len(alive) > 1 else alive[0]

    def _numbered(self, index: int) -> _GilThread:
        if not 0 <= index < len(self._threads):
            raise IndexError(f"thread {index} of an engine with {len(self._threads)}")
        thread = self._threads[index]
        if thread.failed:
            raise EngineClosedError(f"{thread.thread.name} has failed")
        return thread

    def _is_idle(self) -> bool:
        return self._pending_count == 0 and not any(
            thread.load for thread in self._threads if not thread.failed
        )

    def _tell_room(self) -> None:
        if self._room_waiters:
            loop, waiter = self._room_waiters.popleft()
            try:
                loop.call_soon_threadsafe(_set, waiter)
            except RuntimeError:
                # That loop is closed; the next one may have the room.
                self._tell_room()

    def _forget(self, handle: TaskHandle[Any]) -> bool:
        """Take a handle out of the queues; `False` if it is in none."""
        with self._lock:
            for queue in (self._pending, *(thread.pinned for thread in self._threads)):
                if handle in queue:
                    del queue[handle]
                    self._pending_count -= 1
                    self._tell_room()
                    if self._is_idle():
                        self._idle.notify_all()
                    return True
        return False

    def _loop_of(self, handle: TaskHandle[Any]) -> Loop:
        """The loop that a handle which is in no queue is on its way to."""
        with self._lock:
            for thread in self._threads:
                if handle in thread.arriving:
                    return thread.loop
        return handle._loop or self._threads[0].loop  # type: ignore[return-value]

    def _take_next(self, thread: _GilThread) -> bool:
        """A task of `thread` has ended: let a waiting one arrive; `True` if nothing had arrived."""
        with self._lock:
            queue = thread.pinned or self._pending
            if queue:
                wake = not thread.arriving
                thread.arriving.append(queue.popitem(last=False)[0])
                self._pending_count -= 1
                if self._room_waiters:
                    self._tell_room()
                return wake
            thread.load -= 1
            if not thread.load and self._is_idle():
                self._idle.notify_all()
            return False

    def _cancel_everything(self) -> None:
        with self._lock:
            waiting = [*self._pending]
            for thread in self._threads:
                waiting += thread.pinned
        for handle in waiting:
            handle.cancel("the engine is closing")
        for thread in self._threads:
            thread.call(thread.cancel_all)

    def _thread_failed(self, thread: _GilThread, error: BaseException) -> None:
        with self._lock:
            thread.failed = True
            lost = [*thread.running, *thread.arriving, *thread.pinned]
            self._pending_count -= len(thread.pinned)
            thread.pinned.clear()
            thread.arriving.clear()
            if all(other.failed for other in self._threads):
                lost += self._pending
                self._pending_count = 0
                self._pending.clear()
            self._idle.notify_all()
        for handle in lost:
            failure = EngineClosedError(f"{thread.thread.name} has failed: {error!r}")
            failure.__cause__ = error
            if handle._task is not None:
                # Its handle says what became of it.
                handle._task._log_destroy_pending = False  # type: ignore[attr-defined]
            handle._resolve(None, failure)

    def _name_what_is_left(self) -> list[str]:
        left = []
        for thread in self._threads:
            if thread.thread.is_alive():
                handles = [*thread.running, *thread.arriving]
                names = ", ".join(handle.get_name() for handle in handles) or "tasks of tasks"
                left.append(f"{thread.thread.name}: {names}")
                for handle in handles:
                    handle._resolve(
                        None, EngineClosedError(f"{handle.get_name()} did not end in time")
                    )
        if left:
            warnings.warn(
                f"the engine was closed with work left: {'; '.join(left)}",
                ResourceWarning,
                stacklevel=3,
            )
        return left

    def _check_process(self) -> None:
        if self._process != _process:
            raise EngineClosedError("the engine belongs to the parent process; make a new one")

    @staticmethod
    def _left(deadline: float | None) -> float | None:
        return None if deadline is None else max(0.0, deadline - time.monotonic())


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
