"""The scheduler of an engine: assigns tasks to threads, and queues tasks that have to wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .._core import _fork_generation
from . import signal_safe_wait
from .errors import EngineClosedError, EngineFullError
from .loop_thread import LoopThread, Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._core import NativeEngine
    from .task_handle import TaskHandle


class Scheduler:
    """The threads of an engine, and the queues of waiting tasks.

    Threads and handles refer to the scheduler and not to the engine, so that an unreferenced engine
    is collected while its threads run.
    """

    def __init__(self, tasks_per_thread: int, max_pending: int, native: NativeEngine) -> None:
        self.native = native
        self.tasks_per_thread = tasks_per_thread
        self.max_pending = max_pending
        # Guards what follows, and the counts and queues of the threads. Never held during a call
        # that may block.
        self.lock = threading.Lock()
        self.idle = threading.Condition(self.lock)
        self.threads: list[LoopThread] = []
        self.pending: Queue = OrderedDict()
        # The queues of the threads included.
        self.pending_count = 0
        self.putters: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self.spawned = 0
        # Of servers that have not ended: hooks that stop accepting connections.
        self.server_stop_hooks: set[Callable[[], None]] = set()
        self.open = False
        # Was open, and is not any more.
        self.closed = False
        # The engine was collected: the threads end with their last task.
        self.abandoned = False
        self.generation = _fork_generation()

    def belongs_to_parent(self) -> bool:
        """Whether the threads belong to the parent process, after a fork."""
        return self.generation != _fork_generation()

    def check_process(self) -> None:
        if self.belongs_to_parent():
            raise EngineClosedError("the engine belongs to the parent process; make a new one")

    def make_closed_error(self) -> EngineClosedError:
        """The exception to raise while the engine is not open."""
        if self.closed:
            return EngineClosedError("the engine is closed; make a new one")
        return EngineClosedError("the engine was not started; use 'with engine:' or start()")

    def start(self, count: int) -> None:
        """Start the threads: all of them or none."""
        self.generation = _fork_generation()
        try:
            for index in range(count):
                self.threads.append(LoopThread(self, index))
            for thread in self.threads:
                thread.thread.start()
        except (OSError, RuntimeError):
            # Out of descriptors or threads: undo everything.
            for thread in self.threads:
                if thread.thread.is_alive():
                    thread.stop()
                    thread.thread.join()
                else:
                    thread.loop.close()
            self.threads.clear()
            raise
        self.open = True

    def schedule(self, handle: TaskHandle[Any], index: int | None) -> None:
        """Assign a task to a thread, or queue it."""
        self.check_process()
        with self.lock:
            self._check_open()
            target = self._least_loaded() if index is None else self._get_thread(index)
            if target.load >= self.tasks_per_thread:
                if self.pending_count >= self.max_pending:
                    raise EngineFullError(
                        f"each thread runs {self.tasks_per_thread} tasks and {self.max_pending} are"
                        " queued; use spawn_wait(), or raise tasks_per_thread or max_pending"
                    )
                (self.pending if index is None else target.pinned)[handle] = None
                self.pending_count += 1
                self.spawned += 1
                return
            self.spawned += 1
            target.load += 1
            wake = not target.inbox
            target.inbox.append(handle)
        if wake:
            target.call_threadsafe(target.start_inbox)

    def check_threads(self, indexes: Iterable[int]) -> None:
        """Raise the exceptions of `schedule()` for any of the threads."""
        self.check_process()
        with self.lock:
            self._check_open()
            for index in indexes:
                self._get_thread(index)

    def schedule_service(self, handle: TaskHandle[Any], index: int | None) -> None:
        """Assign a task to a thread; it does not count for `tasks_per_thread`."""
        self.check_process()
        with self.lock:
            self._check_open()
            target = self._least_loaded() if index is None else self._get_thread(index)
            target.services += 1
        handle._loop = target.loop
        target.call_threadsafe(target.start_service, handle)

    async def wait_for_space(self) -> None:
        """Wait until the queue has space, or the engine is closed."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        with self.lock:
            if not self.open or self.pending_count < self.max_pending:
                return
            self.putters.append((loop, waiter))
        try:
            await waiter
        except asyncio.CancelledError:
            with self.lock:
                if (loop, waiter) in self.putters:
                    self.putters.remove((loop, waiter))
                else:
                    # This one was woken up, but does not use the space.
                    self._wakeup_next_putter()
            raise

    def dequeue(self, handle: TaskHandle[Any]) -> bool:
        """Remove a handle from the queues; `False` if it is in none."""
        with self.lock:
            for queue in (self.pending, *(thread.pinned for thread in self.threads)):
                if handle in queue:
                    del queue[handle]
                    self.pending_count -= 1
                    self._wakeup_next_putter()
                    self._notify_if_idle()
                    return True
        return False

    def find_loop(self, handle: TaskHandle[Any]) -> asyncio.AbstractEventLoop:
        """The loop of the thread that a handle was assigned to."""
        with self.lock:
            for thread in self.threads:
                if handle in thread.inbox:
                    return thread.loop
        return handle._loop or self.threads[0].loop

    def release_slot(self, thread: LoopThread) -> bool:
        """A task of `thread` has ended. Put a waiting one into the inbox.

        Returns whether the inbox was empty before.
        """
        with self.lock:
            queue = thread.pinned or self.pending
            if queue:
                wake = not thread.inbox
                thread.inbox.append(queue.popitem(last=False)[0])
                self.pending_count -= 1
                if self.putters:
                    self._wakeup_next_putter()
                return wake
            thread.load -= 1
            if not thread.load:
                self._notify_if_idle()
            return False

    def service_ended(self, thread: LoopThread) -> None:
        with self.lock:
            thread.services -= 1
            self.idle.notify_all()
            self._notify_if_idle()

    def thread_failed(self, thread: LoopThread, error: BaseException) -> None:
        with self.lock:
            thread.failed = True
            lost = [*thread.running, *thread.inbox, *thread.pinned]
            self.pending_count -= len(thread.pinned)
            thread.pinned.clear()
            thread.inbox.clear()
            if all(other.failed for other in self.threads):
                lost += self.pending
                self.pending_count = 0
                self.pending.clear()
            while self.putters:
                self._wakeup_next_putter()
            self.idle.notify_all()
        for handle in lost:
            failure = EngineClosedError(f"{thread.thread.name} has failed: {error!r}")
            failure.__cause__ = error
            if handle._task is not None:
                # The handle reports its end.
                handle._task._log_destroy_pending = False  # type: ignore[attr-defined]
            handle._resolve(None, failure)

    # Shutdown.

    def stop_accepting(self) -> None:
        """Accept no more tasks."""
        with self.lock:
            self.open, self.closed = False, True
            while self.putters:
                self._wakeup_next_putter()

    def stop_serving(self) -> None:
        for stop in list(self.server_stop_hooks):
            stop()

    def wait_for_servers(self, timeout: float | None) -> bool:
        with self.lock:
            return signal_safe_wait.wait_for(self.idle, self._servers_have_ended, timeout)

    def wait_native_idle(self, timeout: float | None) -> bool:
        """Wait until no native job is queued, running or pending, by polling."""
        deadline = None if timeout is None else time.monotonic() + timeout
        delay = 0.0005
        states = "queued", "running", "pending"
        while (stats := self.native.stats()) and any(stats[state] for state in states):
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(delay)
            delay = min(0.01, 2 * delay)
        return True

    def close_native(self, timeout: float | None) -> list[str]:
        """Close the native engine; return the names of kernels that have not returned."""
        if timeout is not None:
            return self.native.close(timeout)
        # Signals do not interrupt close(), so it waits for short times.
        while left := self.native.close(0.1):
            pass
        return left

    def wait_idle(self, timeout: float | None) -> bool:
        with self.lock:
            return signal_safe_wait.wait_for(self.idle, self._is_idle, timeout)

    def cancel_all_tasks(self) -> None:
        with self.lock:
            waiting = [*self.pending]
            for thread in self.threads:
                waiting += thread.pinned
        for handle in waiting:
            handle.cancel("the engine is closing")
        for thread in self.threads:
            thread.call_threadsafe(thread.cancel_all)

    def stop(self) -> None:
        for thread in self.threads:
            thread.stop()

    def abandon(self) -> None:
        """Let the threads end with their last task.

        The garbage collector may call this in a thread that holds the lock.
        """
        self.open, self.closed = False, True
        self.abandoned = True
        self.stop_serving()
        for thread in self.threads:
            thread.call_threadsafe(self._stop_if_abandoned)

    def fail_remaining(self) -> list[str]:
        """Fail the handles of tasks on threads that have not ended; return the tasks' names."""
        left = []
        for thread in self.threads:
            if thread.thread.is_alive():
                left.append(f"{thread.thread.name}: {thread.remaining_names()}")
                for handle in (*thread.running, *thread.inbox):
                    handle._resolve(
                        None, EngineClosedError(f"{handle.get_name()} did not end in time")
                    )
        return left

    # The lock is held when these are called.

    def _check_open(self) -> None:
        if not self.open:
            raise self.make_closed_error()

    def _least_loaded(self) -> LoopThread:
        least = None
        least_load = 0
        for thread in self.threads:
            load = thread.load + thread.services
            if not thread.failed and (least is None or load < least_load):
                least, least_load = thread, load
        if least is None:
            raise EngineClosedError("every thread of the engine has failed")
        return least

    def _get_thread(self, index: int) -> LoopThread:
        if not 0 <= index < len(self.threads):
            raise IndexError(f"thread {index} of an engine with {len(self.threads)}")
        thread = self.threads[index]
        if thread.failed:
            raise EngineClosedError(f"{thread.thread.name} has failed")
        return thread

    def _is_idle(self) -> bool:
        alive = [thread for thread in self.threads if not thread.failed]
        if not alive:
            return True
        return self.pending_count == 0 and not any(it.load or it.services for it in alive)

    def _servers_have_ended(self) -> bool:
        return not any(it.services for it in self.threads if not it.failed)

    def _notify_if_idle(self) -> None:
        if self._is_idle():
            self.idle.notify_all()
            if self.abandoned:
                self.stop()

    def _wakeup_next_putter(self) -> None:
        if self.putters:
            loop, waiter = self.putters.popleft()
            try:
                loop.call_soon_threadsafe(_set, waiter)
            except RuntimeError:
                # That loop is closed.
                self._wakeup_next_putter()

    def _stop_if_abandoned(self) -> None:
        with self.lock:
            self._notify_if_idle()


def _set(waiter: asyncio.Future[None]) -> None:
    with suppress(asyncio.InvalidStateError):
        waiter.set_result(None)
