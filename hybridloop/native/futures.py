"""Jobs and batches as futures of threads, and of tasks that iterate over them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from .._core import NativeAwaitable, _run_callbacks


def start_callback_thread() -> None:
    """Start the thread that calls the callbacks of threads without a loop."""
    threading.Thread(target=_run_callbacks, name="hybridloop-callbacks", daemon=True).start()


class FutureView:
    """The private attributes of a future that `wait()` and `as_completed()` use.

    `concurrent.futures` locks the condition, looks at the state, and adds a waiter. So the state
    changes only while the condition is locked, and the waiters are notified then.
    """

    __slots__ = ("condition", "published", "waiters", "watched")

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.waiters: list[Any] = []
        self.published = False
        """Whether the state says that the future is done."""
        self.watched = False

    def publish(self, future: NativeAwaitable[Any]) -> threading.Condition:
        """Change the state if the future is done; return the condition."""
        if not self.published and future.done():
            with self.condition:
                if not self.published:
                    self.published = True
                    for waiter in self.waiters:
                        _notify(waiter, future)
        return self.condition

    def state_of(self, future: NativeAwaitable[Any]) -> str:
        if not self.published:
            return "PENDING"
        return "CANCELLED_AND_NOTIFIED" if future.cancelled() else "FINISHED"

    def waiters_of(self, future: NativeAwaitable[Any]) -> _Waiters:
        return _Waiters(self, future)


class _Waiters:
    """The list of a future's waiters. The condition is locked by the caller."""

    __slots__ = ("_future", "_view")

    def __init__(self, view: FutureView, future: NativeAwaitable[Any]) -> None:
        self._view = view
        self._future = future

    def append(self, waiter: Any) -> None:
        view = self._view
        view.waiters.append(waiter)
        if not view.published and not view.watched:
            view.watched = True
            self._future._add_thread_callback(view.publish)

    def remove(self, waiter: Any) -> None:
        self._view.waiters.remove(waiter)


def _notify(waiter: Any, future: NativeAwaitable[Any]) -> None:
    if future.cancelled():
        waiter.add_cancelled(future)
    elif future.exception() is not None:
        waiter.add_exception(future)
    else:
        waiter.add_result(future)


class IterationWaiter(asyncio.Future[None]):
    """The future of a task that iterates over a job or batch: cancelling it cancels the work.

    As with awaiting, the task is cancelled when the work has ended.
    """

    def __init__(
        self, work: NativeAwaitable[Any], loop: asyncio.AbstractEventLoop, cancels_work: bool
    ) -> None:
        super().__init__(loop=loop)
        self._work: NativeAwaitable[Any] | None = work
        self._cancels_work = cancels_work

    def end(self) -> bool:
        """The task goes on: whether it was cancelled, and the work was cancelled instead."""
        self._work = None
        return self._cancels_work

    def cancel(self, msg: Any | None = None) -> bool:
        if self._work is not None and self._work.cancel(msg) and not self.done():
            self._cancels_work = True
            return True
        # The task is cancelled at once. There may be a result that it has not taken yet.
        return super().cancel(msg)
