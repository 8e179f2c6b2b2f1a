"""A thread of an engine, with its loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from ..loop.loop import new_event_loop

if TYPE_CHECKING:
    from .._core import NativeEngine
    from ..loop.loop import Loop
    from .task_handle import TaskHandle

Queue = OrderedDict["TaskHandle[Any]", None]

_logger = logging.getLogger(__name__)


class ThreadOwner(Protocol):
    """The interface of the scheduler for its threads."""

    native: NativeEngine

    def release_slot(self, thread: LoopThread) -> bool: ...
    def service_ended(self, thread: LoopThread) -> None: ...
    def thread_failed(self, thread: LoopThread, error: BaseException) -> None: ...


class LoopThread:
    """A Python thread that runs an event loop.

    The scheduler's lock guards `load`, `pinned`, `inbox` and `services`.
    """

    def __init__(self, scheduler: ThreadOwner, index: int) -> None:
        self.scheduler = scheduler
        self.index = index
        # Spawned tasks that run here or are in the inbox; at most tasks_per_thread.
        self.load = 0
        # Tasks that wait for this thread only.
        self.pinned: Queue = OrderedDict()
        self.inbox: deque[TaskHandle[Any]] = deque()
        # Tasks that were started, services included.
        self.running: set[TaskHandle[Any]] = set()
        self.services = 0
        self.stopping = False
        self.failed = False
        self.loop: Loop = new_event_loop()
        self.loop.native_engine = scheduler.native
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
                    # It is the exception of the task that raised it; the other tasks continue.
                    _logger.warning("ignored %r in %s", error, self.thread.name)
                else:
                    if not self.stopping:
                        _logger.warning(
                            "the loop of %s was stopped; running it again", self.thread.name
                        )
            self._shutdown_loop()
        except BaseException as error:
            _logger.critical("%s has failed", self.thread.name, exc_info=error)
            self.scheduler.thread_failed(self, error)
        finally:
            if not loop.is_closed():
                loop.close()

    def _shutdown_loop(self) -> None:
        """Cancel the remaining tasks and close async generators, as `asyncio.Runner` does.

        The default executor is shut down by `loop.close()`, which does not wait for it: waiting
        needs a thread, and none can be started while the interpreter exits.
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
        self.call_threadsafe(self.loop.stop)

    def call_threadsafe(self, function: Any, *args: Any) -> None:
        # RuntimeError: the loop is closed, and the thread has ended.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *args)

    def start_inbox(self) -> None:
        """Start the tasks in the inbox."""
        while self.inbox:
            self._start(self.inbox.popleft(), self.task_ended)

    def task_ended(self, handle: TaskHandle[Any]) -> None:
        """A spawned task has ended: start the next one."""
        self.running.discard(handle)
        if self.scheduler.release_slot(self):
            # In another callback: tasks that end in their first step would recurse.
            self.loop.call_soon(self.start_inbox)

    def start_service(self, handle: TaskHandle[Any]) -> None:
        self._start(handle, self.service_ended)

    def service_ended(self, handle: TaskHandle[Any]) -> None:
        self.running.discard(handle)
        self.scheduler.service_ended(self)

    def _start(self, handle: TaskHandle[Any], ended: Any) -> None:
        self.running.add(handle)
        try:
            started = handle._start(self.loop, ended)
        except Exception as error:
            # For example an exception of a task factory.
            handle._resolve(None, error)
            started = False
        if not started:
            ended(handle)

    def cancel_all(self) -> None:
        for handle in list(self.running):
            handle._cancel_task("the engine is closing")

    def remaining_names(self) -> str:
        """The names of tasks that have not ended."""
        names = [handle.get_name() for handle in (*self.running, *self.inbox)]
        if not names:
            with suppress(RuntimeError):  # the set changes while this thread iterates
                tasks = asyncio.all_tasks(self.loop)
                names = [getattr(task.get_coro(), "__qualname__", repr(task)) for task in tasks]
        return ", ".join(names) or "a callback"
