"""The threads of an engine."""

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
    """What a thread needs of the scheduler that has made it."""

    native: NativeEngine

    def release_slot(self, thread: LoopThread) -> bool: ...
    def service_ended(self, thread: LoopThread) -> None: ...
    def thread_failed(self, thread: LoopThread, error: BaseException) -> None: ...


class LoopThread:
    """A Python thread with its loop; what is not the loop's is guarded by the scheduler's lock."""

    def __init__(self, scheduler: ThreadOwner, index: int) -> None:
        self.scheduler = scheduler
        self.index = index
        # Tasks that run here or are on their way; never more than tasks_per_thread.
        self.load = 0
        # Pinned to this thread, waiting for a place.
        self.pinned: Queue = OrderedDict()
        self.inbox: deque[TaskHandle[Any]] = deque()
        # Those that have arrived, and the services, which take no place.
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
                    # The task that raised it has it as its exception, and the others go on.
                    _logger.warning("%r in %s does not end the engine", error, self.thread.name)
                else:
                    if not self.stopping:
                        _logger.warning("the loop of %s was stopped; it goes on", self.thread.name)
            self._finish()
        except BaseException as error:
            _logger.critical("%s has failed", self.thread.name, exc_info=error)
            self.scheduler.thread_failed(self, error)
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

    def start_inbox(self) -> None:
        """Make tasks of what has arrived."""
        while self.inbox:
            self._start(self.inbox.popleft(), self.ended)

    def ended(self, handle: TaskHandle[Any]) -> None:
        """Let the next one in."""
        self.running.discard(handle)
        if self.scheduler.release_slot(self):
            # Not at once: a row of tasks that end at their first step must not nest.
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
            # A task factory may refuse.
            handle._resolve(None, error)
            started = False
        if not started:
            ended(handle)

    def cancel_all(self) -> None:
        for handle in list(self.running):
            handle._cancel_task("the engine is closing")

    def remaining_names(self) -> str:
        """The names of the tasks that keep the thread from ending."""
        names = [handle.get_name() for handle in (*self.running, *self.inbox)]
        if not names:
            with suppress(RuntimeError):  # tasks come and go while another thread looks
                tasks = asyncio.all_tasks(self.loop)
                names = [getattr(task.get_coro(), "__qualname__", repr(task)) for task in tasks]
        return ", ".join(names) or "a callback"
