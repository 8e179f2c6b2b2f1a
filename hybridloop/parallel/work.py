"""Submitting work, and calls in the main thread."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..engine.mapping import NOT_GIVEN
from ..engine.task_handle import TaskHandle
from ..generators import readable, wait_ready
from .guards import AutoResetEvent, get_event
from .runtime import get_runtime, run_main_thread_call
from .threads import blocking, is_parallel_thread

if TYPE_CHECKING:
    from types import TracebackType

_F = TypeVar("_F", bound=Callable[..., Any])
Callback = Callable[[Any], None]
ExcInfo = tuple[type[BaseException], BaseException, "TracebackType | None"]
Errback = Callable[[ExcInfo], None]


async def _no_op() -> None:
    """In the place of the coroutine of a handle without a task."""


class WorkItem(TaskHandle[Any]):
    """Submitted work: a function call with callbacks, and a handle of its result.

    The function and its callbacks run in threads of the pool. What has to be awaited, before the
    call or as its result, runs on the engine.
    """

    __slots__ = ("_engine_task", "_errback", "_function", "_runtime", "_started", "callback")

    def __init__(
        self,
        function: Callable[[], Any],
        callback: Callback | None = None,
        errback: Errback | None = None,
        name: str | None = None,
    ) -> None:
        runtime = get_runtime()
        super().__init__(
            runtime.get_engine()._scheduler, body := _no_op(), contextvars.copy_context(), name
        )
        body.close()
        self._runtime = runtime
        self._function = function
        self.callback = callback
        self._errback = errback
        self._started = False
        # A task on the engine that it waits for, before the function is called or after.
        self._engine_task: TaskHandle[Any] | None = None
        runtime.begin()

    def submit(self, *, blocks: bool = False) -> WorkItem:
        """Call the function in the pool; `blocks` if it blocks most of the time."""
        try:
            self._runtime.pool.call(self._work, blocks=blocks)
        except BaseException:
            self._runtime.end()
            raise
        return self

    def submit_in_order(self, then: Callable[[], None]) -> None:
        """Call the function in the pool, and `then` after it in any case."""

        def work() -> None:
            self._work()
            then()

        self._call_in_pool(work, blocks=True)

    def submit_after(self, waiting: Coroutine[Any, Any, Any]) -> WorkItem:
        """Call the function in the pool when a coroutine has ended on the engine."""

        def then(handle: TaskHandle[Any]) -> None:
            error = handle._exception
            if error is None:
                self._call_in_pool(self._work)
            else:
                self._fail_in_pool(error)

        self._spawn(waiting, then)
        return self

    def cancel(self, msg: str | None = None) -> bool:
        """Cancel it before the function is called, or while its result is awaited.

        `False` if it has ended, or the function is running, which cannot be stopped.
        """
        with self._lock:
            if self._done:
                return False
            task, begun = self._engine_task, self._started
        if task is not None and task.cancel(msg):
            return True
        if begun:
            return False
        self._end(None, asyncio.CancelledError(*(() if msg is None else (msg,))))
        return True

    def _wait_blocking(self, timeout: float | None) -> None:
        with blocking():
            super()._wait_blocking(timeout)

    def _spawn(
        self, body: Coroutine[Any, Any, Any], then: Callable[[TaskHandle[Any]], None]
    ) -> None:
        try:
            task = self._runtime.get_engine().spawn(body, context=self._context)
        except BaseException as error:
            body.close()
            self._end(None, error)
            raise
        self._engine_task = task

        def ended(task: TaskHandle[Any]) -> None:
            # Its exception becomes the exception of this item.
            task._retrieved = True
            then(task)

        task.add_done_callback(ended)

    def _work(self) -> None:
        with self._lock:
            if self._done:
                return
            self._started = True
        try:
            value = self._context.run(self._function)
            if inspect.isawaitable(value):
                # The coroutine itself, so that it is closed if it is cancelled before it begins.
                body = value if inspect.iscoroutine(value) else _await(value)
                self._spawn(body, self._awaited)
                return
        except BaseException as error:
            self._failed(error)
        else:
            self._succeeded(value)

    def _awaited(self, task: TaskHandle[Any]) -> None:
        if task._exception is None:
            self._call_in_pool(lambda: self._succeeded(task._result))
        else:
            self._fail_in_pool(task._exception)

    def _fail_in_pool(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            # By cancel(): no errback is called.
            self._end(None, error)
        else:
            self._call_in_pool(lambda: self._failed(error))

    def _call_in_pool(self, function: Callable[[], None], *, blocks: bool = False) -> None:
        try:
            self._runtime.pool.call(function, blocks=blocks)
        except RuntimeError as error:
            # No thread can be started: that is its result.
            self._end(None, error, error)

    def _succeeded(self, value: Any) -> None:
        if self.callback is not None:
            try:
                check_returns_none(self._context.run(self.callback, value))
            except BaseException as error:
                self._failed(error)
                return
        self._end(value, None)

    def _failed(self, error: BaseException) -> None:
        unhandled: BaseException | None = error
        if self._errback is not None:
            unhandled = None
            try:
                triple = (type(error), error, error.__traceback__)
                check_returns_none(self._context.run(self._errback, triple))
            except BaseException as second:
                unhandled = second
        self._end(None, error, unhandled)

    def _end(
        self, value: Any, error: BaseException | None, unhandled: BaseException | None = None
    ) -> None:
        if self._done:
            return
        awaited = self._resolve(value, error)
        if awaited and unhandled is not None:
            # Whoever waits gets it, or `__del__()` logs it, if the wait is cancelled right now.
            self._runtime.end()
            return
        self._runtime.end(unhandled, self)
        self._retrieved = True

    def _retrieve(self) -> None:
        super()._retrieve()
        self._runtime.retrieved(self)


async def _await(value: Any) -> Any:
    return await value


def check_returns_none(value: object) -> None:
    """A callback must return `None`: its result would be ignored."""
    if value is not None:
        raise ValueError(f"non-None return value detected: {value!r}")


def bind(
    function: Callable[..., Any], args: Any, kwds: Mapping[str, Any] | None
) -> Callable[[], Any]:
    """Bind arguments to a function. A single argument does not need a tuple."""
    if not callable(function):
        raise TypeError(f"a function is expected, not {function!r}")
    if args is None:
        args = ()
    elif not isinstance(args, tuple):
        args = (args,)
    return functools.partial(function, *args, **(kwds or {}))


def _name(func: Callable[..., Any]) -> str:
    return str(getattr(func, "__qualname__", None) or type(func).__qualname__)


def submit_work(
    func: Callable[..., Any],
    args: Any = None,
    kwds: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    errback: Errback | None = None,
) -> TaskHandle[Any]:
    """Call `func(*args, **kwds)` in a parallel thread, then `callback(result)` there.

    `args` is a tuple, or a single argument. An exception of `func` or `callback` is passed to
    `errback((type, value, traceback))`. A callback must return `None`; anything else is a
    `ValueError`. Without an errback, or if it raises, the exception is raised by `run()`. The
    result of an async function is awaited on a loop. The returned handle can be awaited for the
    function's result.
    """
    return WorkItem(bind(func, args, kwds), callback, errback, _name(func)).submit()


def submit_timer(
    timer: float,
    func: Callable[..., Any],
    args: Any = None,
    kwds: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    errback: Errback | None = None,
) -> TaskHandle[Any]:
    """Like `submit_work()`, after `timer` seconds."""
    delay = float(timer)
    if not delay >= 0:
        raise ValueError(f"timer must be a number of seconds from now, not {timer!r}")
    item = WorkItem(bind(func, args, kwds), callback, errback, _name(func))
    return item.submit_after(asyncio.sleep(delay))


def submit_io(
    func: Callable[..., Any],
    args: Any = None,
    kwds: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    errback: Errback | None = None,
) -> TaskHandle[Any]:
    """Like `submit_work()`, for a function that blocks. It does not count for the pool's size."""
    return WorkItem(bind(func, args, kwds), callback, errback, _name(func)).submit(blocks=True)


def submit_wait(
    obj: Any,
    func: Callable[..., Any] | None = None,
    args: Any = None,
    kwds: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    errback: Errback | None = None,
    timeout: float | None = None,
) -> TaskHandle[Any]:
    """Like `submit_work()`, once `obj` is ready.

    `obj` is a protected object, which is ready on `signal()`; a `threading.Event` or another object
    with `wait(timeout)`; an object with `fileno()`, which is ready when it is readable; or an
    awaitable. `TimeoutError` after `timeout` seconds.
    """
    call = bind(func, args, kwds) if func is not None else lambda: None
    name = "submit_wait" if func is None else _name(func)
    waiting: Callable[[], Coroutine[Any, Any, Any]]
    if (event := get_event(obj)) is not None:
        waiting = lambda: _wait_for_signal(event)  # noqa: E731
    elif inspect.isawaitable(obj):
        waiting = lambda: _await(obj)  # noqa: E731
    elif hasattr(obj, "fileno"):
        waiting = lambda: wait_ready(readable(obj))  # noqa: E731
    elif callable(wait := getattr(obj, "wait", None)):

        def wait_and_call() -> Any:
            if not wait(timeout):
                raise _not_ready(obj, timeout)
            return call()

        return WorkItem(wait_and_call, callback, errback, name).submit(blocks=True)
    else:
        raise TypeError(
            "a protected object, or one with wait(), fileno() or __await__(), is expected, not"
            f" {obj!r}"
        )

    async def ready() -> None:
        try:
            await asyncio.wait_for(waiting(), timeout)
        except TimeoutError:
            raise _not_ready(obj, timeout) from None

    item = WorkItem(call, callback, errback, name).submit_after(ready())
    if inspect.iscoroutine(obj):
        # It may never have been awaited.
        item.add_done_callback(lambda _: obj.close())
    return item


def _not_ready(obj: Any, timeout: float | None) -> TimeoutError:
    return TimeoutError(f"{obj!r} was not ready within {timeout} s")


async def _wait_for_signal(event: AutoResetEvent) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def signalled() -> None:
        if not future.done():
            future.set_result(None)

    waiter = event.add_waiter(lambda: loop.call_soon_threadsafe(signalled))
    try:
        await future
    except BaseException:
        # Pass a received signal on.
        if waiter is None or not event.remove_waiter(waiter):
            event.signal()
        raise


def call_from_main_thread(
    func: _F, args: Any = NOT_GIVEN, kwds: Mapping[str, Any] | None = None
) -> _F | None:
    """Call `func(*args)` in the thread of `run()`. A result other than `None` is a warning.

    With `func` alone it is a decorator for functions that are to be called in that way.
    """
    if args is NOT_GIVEN and kwds is None:

        @functools.wraps(func)
        def called_later(*args: Any, **kwds: Any) -> None:
            call_from_main_thread(func, args, kwds)

        return cast("_F", called_later)
    function = bind(func, None if args is NOT_GIVEN else args, kwds)
    if is_parallel_thread():
        get_runtime().call_in_main_thread(function, None)
    else:
        run_main_thread_call(function, None)
    return None


def call_from_main_thread_and_wait(
    func: Callable[..., Any], args: Any = NOT_GIVEN, kwds: Mapping[str, Any] | None = None
) -> Any:
    """Call `func(*args)` in the thread of `run()`; wait for its result or exception.

    With `func` alone it is a decorator for functions that are to be called in that way.
    """
    if args is NOT_GIVEN and kwds is None:

        @functools.wraps(func)
        def called_there(*args: Any, **kwds: Any) -> Any:
            return call_from_main_thread_and_wait(func, args, kwds)

        return called_there
    function = bind(func, None if args is NOT_GIVEN else args, kwds)
    if not is_parallel_thread():
        return function()
    result: Future[Any] = Future()
    get_runtime().call_in_main_thread(function, result)
    with blocking():
        return result.result()
