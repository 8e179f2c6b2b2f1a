"""Which task runs on which thread, and which one waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from . import _fork, signal_safe_wait
from .errors import EngineClosedError, EngineFullError
from .loop_thread import LoopThread, Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._core import NativeEngine
    from .task_handle import TaskHandle


class Scheduler:
    """The threads of an engine and the queues in front of them.

    The threads and the handles know this and not the engine, so that an engine that nobody holds
    any more is found out.
    """

    def __init__(self, tasks_per_thread: int, max_pending: int, native: NativeEngine) -> None:
        self.native = native
        self.tasks_per_thread = tasks_per_thread
        self.max_pending = max_pending
        # Guards all that follows and the counts and queues of the threads; held for a few
        # operations at a time, never while anything is called that could wait.
        self.lock = threading.Lock()
        self.idle = threading.Condition(self.lock)
        self.threads: list[LoopThread] = []
        self.pending: Queue = OrderedDict()
        # Of the queues of the threads as well.
        self.pending_count = 0
        self.putters: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self.spawned = 0
        # Hooks that make servers stop accepting connections, of those that have not ended.
        self.server_stop_hooks: set[Callable[[], None]] = set()
        self.open = False
        # It was, and will not be again.
        self.closed = False
        # Nobody holds the engine: the threads end with their last task.
        self.abandoned = False
        self.generation = _fork.generation()

    def belongs_to_parent(self) -> bool:
        """Whether the threads are those of the process that has forked this one."""
        return self.generation != _fork.generation()

    def check_process(self) -> None:
        if self.belongs_to_parent():
            raise EngineClosedError("the engine belongs to the parent process; make a new one")

    def make_closed_error(self) -> EngineClosedError:
        """What is raised while the engine is not open; says how to get one that is."""
        if self.closed:
            return EngineClosedError("the engine is not open any more; make a new one")
        return EngineClosedError("the engine is not open yet; use 'with engine:' or start()")

    def start(self, count: int) -> None:
        """Make and start the threads: all of them, or none."""
        self.generation = _fork.generation()
        try:
            for index in range(count):
                self.threads.append(LoopThread(self, index))
            for thread in self.threads:
                thread.thread.start()
        except (OSError, RuntimeError):
            # Out of descriptors or threads: nothing stays behind.
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
        """Send a task to a thread, or to the end of a queue."""
        self.check_process()
        with self.lock:
            self._check_open()
            target = self._least_loaded() if index is None else self._get_thread(index)
            if target.load >= self.tasks_per_thread:
                if self.pending_count >= self.max_pending:
                    raise EngineFullError(
                        f"{self.tasks_per_thread} tasks run on each thread and {self.max_pending}"
                        " are waiting; use spawn_wait(), or raise tasks_per_thread or max_pending"
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
            target.call(target.start_inbox)

    def check_threads(self, indexes: Iterable[int]) -> None:
        """Raise what `schedule()` would for any of the threads."""
        self.check_process()
        with self.lock:
            self._check_open()
            for index in indexes:
                self._get_thread(index)

    def schedule_service(self, handle: TaskHandle[Any], index: int | None) -> None:
        """Send a task to a thread beside those that are counted."""
        self.check_process()
        with self.lock:
            self._check_open()
            target = self._least_loaded() if index is None else self._get_thread(index)
            target.services += 1
        handle._loop = target.loop
        target.call(target.start_service, handle)

    async def wait_for_space(self) -> None:
        """Wait until a queue has had a place since the call, or the engine is closed."""
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
                    # The room that this one was told of is the next one's.
                    self._wakeup_next_putter()
            raise

    def dequeue(self, handle: TaskHandle[Any]) -> bool:
        """Take a handle out of the queues; `False` if it is in none."""
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
        """The loop that a handle which is in no queue is on its way to."""
        with self.lock:
            for thread in self.threads:
                if handle in thread.inbox:
                    return thread.loop
        return handle._loop or self.threads[0].loop

    def release_slot(self, thread: LoopThread) -> bool:
        """A task of `thread` has ended: let a waiting one arrive; `True` if nothing had arrived."""
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
                # Its handle says what became of it.
                handle._task._log_destroy_pending = False  # type: ignore[attr-defined]
            handle._resolve(None, failure)

    # The end

    def stop_accepting(self) -> None:
        """Take no more tasks."""
        with self.lock:
            self.open, self.closed = False, True
            while self.putters:
                self._wakeup_next_putter()

    def stop_serving(self) -> None:
        for stop in list(self.server_stop_hooks):
            stop()

    def wait_served(self, timeout: float | None) -> bool:
        with self.lock:
            return signal_safe_wait.wait_for(self.idle, self._has_served, timeout)

    def wait_native_idle(self, timeout: float | None) -> bool:
        """Wait until no job is left; nothing tells of the last one."""
        deadline = None if timeout is None else time.monotonic() + timeout
        delay = 0.0005
        while (stats := self.native.stats()) and (stats["queued"] or stats["running"]):
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(delay)
            delay = min(0.01, 2 * delay)
        return True

    def close_native(self, timeout: float | None) -> list[str]:
        """End the jobs; the names of kernels that have not returned."""
        if timeout is not None:
            return self.native.close(timeout)
        # In pieces, as it cannot be interrupted.
        while left := self.native.close(0.1):
            pass
        return left

    def wait_idle(self, timeout: float | None) -> bool:
        with self.lock:
            return signal_safe_wait.wait_for(self.idle, self._is_idle, timeout)

    def cancel_pending_and_running(self) -> None:
        with self.lock:
            waiting = [*self.pending]
            for thread in self.threads:
                waiting += thread.pinned
        for handle in waiting:
            handle.cancel("the engine is closing")
        for thread in self.threads:
            thread.call(thread.cancel_all)

    def stop(self) -> None:
        for thread in self.threads:
            thread.stop()

    def abandon(self) -> None:
        """Let the threads end with their last task.

        The collector may call this while the lock is held by this very thread.
        """
        self.open, self.closed = False, True
        self.abandoned = True
        self.stop_serving()
        for thread in self.threads:
            thread.call(self._stop_if_abandoned)

    def fail_remaining(self) -> list[str]:
        """Name what keeps threads from ending, and give up its handles."""
        left = []
        for thread in self.threads:
            if thread.thread.is_alive():
                left.append(f"{thread.thread.name}: {thread.remaining_names()}")
                for handle in (*thread.running, *thread.inbox):
                    handle._resolve(
                        None, EngineClosedError(f"{handle.get_name()} did not end in time")
                    )
        return left

    # What follows is called with the lock held.

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

    def _has_served(self) -> bool:
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
                # That loop is closed; the next one may have the room.
                self._wakeup_next_putter()

    def _stop_if_abandoned(self) -> None:
        with self.lock:
            self._notify_if_idle()


def _set(waiter: asyncio.Future[None]) -> None:
    with suppress(asyncio.InvalidStateError):
        waiter.set_result(None)
