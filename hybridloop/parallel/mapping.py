"""`map()` and `map_reduce()`: those of `Engine`, with PyParallel's callbacks."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Self, overload

from .._core import Kernel
from ..engine.mapping import NOT_GIVEN
from .runtime import Runtime, get_runtime
from .threads import blocking
from .work import Errback, WorkItem

if TYPE_CHECKING:
    from ..engine.mapping import MapResults
    from ..engine.task_handle import TaskHandle

_Function = Callable[..., Any] | Kernel | str


class Results:
    """An iterator over the results of `map()`: `for` in threads, `async for` in tasks.

    An exception of a call is raised in the place of its result and ends the iteration; so do
    `close()` and deleting the iterator. Calls that have not ended are cancelled then.
    """

    def __init__(self, results: MapResults[Any]) -> None:
        self._results = results

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with blocking():
            return next(self._results)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._results)

    def close(self) -> None:
        """Cancel the calls that have not ended."""
        self._results.close()


@overload
def map(callable: _Function, iterable: Iterable[Any], chunksize: int = 1) -> Results: ...
@overload
def map(
    callable: _Function,
    iterable: Iterable[Any],
    chunksize: int = 1,
    callback: Callable[[list[Any]], None] | None = None,
    errback: Errback | None = None,
) -> TaskHandle[list[Any]]: ...
def map(
    callable: _Function,
    iterable: Iterable[Any],
    chunksize: int = 1,
    callback: Callable[[list[Any]], None] | None = None,
    errback: Errback | None = None,
) -> Results | TaskHandle[list[Any]]:
    """Call a function in parallel threads, or a kernel on native workers, for each item.

    A kernel, which may be given by its name, runs in parallel on every Python; functions do not if
    there is a GIL, see `mode()`. `chunksize` calls are submitted together.

    Without a callback, it returns an iterator over the results, in the order of the items. Items
    are taken as results are consumed, and an exception is raised in the place of its result. With
    `callback` or `errback`, all items are computed; then `callback(results)` is called in a
    parallel thread, or `errback((type, value, traceback))` for the first exception. `run()` waits
    for it, and the returned handle has the list as its result.
    """
    runtime = get_runtime()
    engine = runtime.get_engine()
    results = Results(engine.map(_wrap_for_pool(runtime, callable), iterable, chunksize=chunksize))
    if callback is None and errback is None:
        return results

    async def collect() -> list[Any]:
        return [result async for result in results]

    return WorkItem(collect, callback, errback, f"map {_name(callable)}").submit()


def map_reduce(
    callable: _Function,
    reducer: _Function,
    iterable: Iterable[Any],
    initial: Any = NOT_GIVEN,
    chunksize: int = 1,
    callback: Callable[[Any], None] | None = None,
    errback: Errback | None = None,
) -> TaskHandle[Any]:
    """`functools.reduce(reducer, map(callable, iterable), initial)`, submitted as work.

    Results are reduced in the order of the items, while others are computed. Both functions may be
    kernels.
    """
    runtime = get_runtime()
    options = {} if initial is NOT_GIVEN else {"initial": initial}
    items = iter(iterable)

    async def reduce() -> Any:
        return await runtime.get_engine().map_reduce(
            _wrap_for_pool(runtime, callable),
            _wrap_for_pool(runtime, reducer),
            items,
            chunksize=chunksize,
            **options,
        )

    return WorkItem(reduce, callback, errback, f"map_reduce {_name(callable)}").submit()


def _wrap_for_pool(runtime: Runtime, function: _Function) -> _Function:
    """Make an async function that calls `function` in the pool, so that no loop is blocked."""
    if not callable(function) or inspect.iscoroutinefunction(function):
        return function

    @functools.wraps(function)
    async def call(*args: Any) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = copy_context()

        def work() -> None:
            try:
                value = context.run(function, *args)
            except StopIteration as error:
                # A future cannot have it as its exception.
                wrong = RuntimeError(f"{_name(function)} raised StopIteration")
                wrong.__cause__ = error
                settle(future.set_exception, wrong)
            except BaseException as error:
                settle(future.set_exception, error)
            else:
                settle(future.set_result, value)

        def settle(setter: Callable[[Any], None], outcome: Any) -> None:
            # RuntimeError: the loop is closed, and nothing waits on it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, setter, outcome)

        runtime.pool.call(work)
        value = await future
        return await value if inspect.isawaitable(value) else value

    return call


def _settle(future: asyncio.Future[Any], setter: Callable[[Any], None], outcome: Any) -> None:
    if not future.done():
        setter(outcome)


def _name(function: _Function) -> str:
    if isinstance(function, str):
        return function
    return str(getattr(function, "name", None) or getattr(function, "__qualname__", function))
