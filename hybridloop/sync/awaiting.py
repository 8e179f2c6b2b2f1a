"""`await_()`: an ordinary function waits for an awaitable."""

from __future__ import annotations

import asyncio
import inspect
import sys
from asyncio import coroutines
from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType
from typing import Any, TypeVar

from greenlet import getcurrent

from .._core import LoopCore, _provide
from . import guards
from .errors import FREE_THREADED, SyncAwaitError, check_python
from .stacks import Greenlet, Runner, Stacks, get_context
from .tasks import can_wait_in

_T = TypeVar("_T")

_get_running_loop = asyncio._get_running_loop


def await_(awaitable: Awaitable[_T]) -> _T:
    """Wait for an awaitable in an ordinary function, and return its result.

    The function must have been called by a task or a callback of the loop that runs in this thread,
    however deep. The loop goes on meanwhile: other tasks run, and what they see may change.
    """
    current = getcurrent()
    loop = _get_running_loop()
    if type(current) is Runner and current.stacks.loop is loop:
        stacks: Stacks = current.stacks
        if stacks.closing:
            _refuse(awaitable, asyncio.CancelledError("the loop is closed"))
    else:
        found = _find(loop, current)
        if isinstance(found, BaseException):
            _refuse(awaitable, found)
        if not isinstance(found, Stacks):
            return found(awaitable)  # type: ignore[no-any-return]
        stacks = found
    task = asyncio.current_task(loop)
    if guards.in_use and (refusal := guards.refusal(task)) is not None:
        _refuse(awaitable, refusal)
    if task is None:
        return _wait_in_callback(stacks, current, awaitable)  # type: ignore[no-any-return]
    if not can_wait_in(task):
        _refuse(awaitable, _unknown_task(task))
    if type(awaitable) is not CoroutineType:
        awaitable = _iterator(awaitable)
    return stacks.drive(current, task, awaitable)  # type: ignore[no-any-return]


ohwait = await_


def can_await() -> bool:
    """Whether `await_()` would wait here, and not raise."""
    current = getcurrent()
    loop = _get_running_loop()
    if type(current) is not Runner or current.stacks.loop is not loop:
        if isinstance(_find(loop, current), BaseException):
            return False
    elif current.stacks.closing:
        return False
    task = asyncio.current_task(loop)
    if guards.in_use and guards.refusal(task) is not None:
        return False
    return task is None or can_wait_in(task)


def _refuse(awaitable: Any, error: BaseException) -> None:
    """Raise `error`. A coroutine is closed, so that it does not warn that nobody has awaited it."""
    if asyncio.iscoroutine(awaitable):
        awaitable.close()
    raise error


def _unknown_task(task: Any) -> SyncAwaitError:
    return SyncAwaitError(
        f"cannot wait in {task!r}: the fields of {type(task).__module__}.{type(task).__qualname__} "
        "are not known to hybridloop"
    )


# Where it is called.


def stacks_of(loop: Any) -> Stacks | None:
    """The stacks of a loop, if it has some."""
    if isinstance(loop, LoopCore):
        stacks: Stacks | None = loop._stacks  # type: ignore[attr-defined]
        return stacks
    return getattr(loop, "_hybridloop_stacks", None)


def make_stacks(loop: Any) -> Stacks:
    """The stacks of a loop of hybridloop, or of one that was prepared."""
    stacks = stacks_of(loop)
    if stacks is None:
        check_python()
        loop._stacks = stacks = Stacks(loop)
    return stacks


def _find(loop: Any, current: Greenlet) -> Any:
    """The stacks to wait with, or a function of another library that waits, or an error."""
    if loop is None:
        if type(current) is Runner and current.stacks.closing:
            return asyncio.CancelledError("the loop is closed")
        return RuntimeError("no running event loop")
    if (delegate := _delegate(current)) is not None:
        return delegate
    stacks = stacks_of(loop)
    if stacks is None:
        if not isinstance(loop, LoopCore):
            return SyncAwaitError(
                f"await_() cannot wait on a {type(loop).__module__}.{type(loop).__qualname__}: "
                "run a hybridloop.Loop, or call hybridloop.sync.prepare(loop) for a selector event "
                "loop of asyncio"
            )
        try:
            stacks = make_stacks(loop)
        except SyncAwaitError as error:
            return error
    if current is stacks.late_base:
        return stacks
    if stacks.hub is None and _runs_on_this_stack(loop):
        return stacks
    if type(current) is Runner:
        return SyncAwaitError(
            "await_() was called for another loop than the one that has called this function"
        )
    return SyncAwaitError(
        f"await_() cannot wait in {current!r}: the greenlet of an unknown library cannot be told "
        "from the loop's own stack"
    )


def _runs_on_this_stack(loop: Any) -> bool:
    """Whether `run_forever()` of the loop is on the stack of the current greenlet."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "run_forever" and frame.f_locals.get("self") is loop:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _delegate(current: Greenlet) -> Callable[[Any], Any] | None:
    """How the library that has made this greenlet waits."""
    if getattr(current, "__sqlalchemy_greenlet_provider__", False):
        # SQLAlchemy and awaitlet: the driver in the parent awaits what it gets.
        parent = current.parent
        assert parent is not None
        return parent.switch
    greenback = sys.modules.get("greenback")
    if greenback is not None and type(current) is not Runner and greenback.has_portal():
        return greenback.await_  # type: ignore[no-any-return]
    return None


# Waiting.


def _iterator(awaitable: Any) -> Any:
    """What `await` drives."""
    if coroutines.iscoroutine(awaitable):
        return awaitable
    if inspect.isawaitable(awaitable) and not hasattr(awaitable, "__await__"):
        return awaitable  # a generator of types.coroutine()
    method = getattr(type(awaitable), "__await__", None)
    if method is None:
        raise TypeError(f"object {type(awaitable).__name__} can't be used in 'await' expression")
    iterator = method(awaitable)
    if not hasattr(iterator, "__next__"):
        raise TypeError(f"__await__() returned non-iterator of type '{type(iterator).__name__}'")
    return iterator


def _wait_in_callback(stacks: Stacks, current: Greenlet, awaitable: Any) -> Any:
    """Wait for a future, or for a task that runs the awaitable in the callback's context."""
    future = awaitable
    created = None
    if not asyncio.isfuture(awaitable):
        if not asyncio.iscoroutine(awaitable):
            awaitable = _as_coroutine(awaitable)
        context = get_context(current)
        future = created = stacks.loop.create_task(awaitable, context=context)
    try:
        return stacks.drive(current, None, _iterator(future))
    finally:
        if created is not None and not created.done():
            created.cancel()


async def _as_coroutine(awaitable: Any) -> Any:
    return await awaitable


def as_coroutine(awaitable: Awaitable[_T]) -> Coroutine[Any, Any, _T]:
    """A coroutine that awaits this."""
    if asyncio.iscoroutine(awaitable):
        return awaitable
    return _as_coroutine(awaitable)


def _run_on_stacks(loop: Any, within: bool = False) -> None:
    """Run a loop in runners; called by the native core, once for each run.

    `within` a callback of that loop, run one iteration.
    """
    if FREE_THREADED:
        (loop._iterate_within if within else loop._run_iterations)()
        return
    stacks = make_stacks(loop)
    if within:
        stacks.iterate_within()
    else:
        stacks.run()


_provide(run_on_stacks=_run_on_stacks)
