"""Asynchronous interfaces as ordinary ones."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
)
from contextlib import AbstractAsyncContextManager
from typing import Any, ParamSpec, TypeVar

from ..loop import new_event_loop
from ..loop import run as run_on_new_loop
from .awaiting import as_coroutine, await_

_P = ParamSpec("_P")
_T = TypeVar("_T")


def run(awaitable: Awaitable[_T]) -> _T:
    """`await_()` where a loop runs in this thread, `hybridloop.run()` where none runs."""
    if asyncio._get_running_loop() is None:
        return run_on_new_loop(as_coroutine(awaitable))
    return await_(awaitable)


def synced(function: Callable[_P, Coroutine[Any, Any, _T]]) -> Callable[_P, _T]:
    """Make an ordinary function of an asynchronous one: it runs the coroutine by `run()`."""

    @functools.wraps(function)
    def ordinary(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return run(function(*args, **kwargs))

    return ordinary


@contextlib.contextmanager
def _waiting() -> Iterator[Callable[[Any], Any]]:
    """How to wait, several times on the same loop."""
    if asyncio._get_running_loop() is not None:
        yield await_
        return
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        yield lambda awaitable: runner.run(as_coroutine(awaitable))


_ENDED: Any = object()


async def _next(iterator: AsyncIterator[_T]) -> _T:
    return await anext(iterator, _ENDED)


def iterate(iterable: AsyncIterable[_T]) -> Iterator[_T]:
    """The items of an asynchronous iterable, for an ordinary `for`."""
    with _waiting() as wait:
        iterator = aiter(iterable)
        try:
            while (item := wait(_next(iterator))) is not _ENDED:
                yield item
        finally:
            if (close := getattr(iterator, "aclose", None)) is not None:
                wait(close())


@contextlib.contextmanager
def entered(manager: AbstractAsyncContextManager[_T]) -> Iterator[_T]:
    """An asynchronous context manager, for an ordinary `with`."""
    with _waiting() as wait:
        stack = contextlib.AsyncExitStack()
        value = wait(stack.enter_async_context(manager))
        try:
            yield value
        except BaseException as error:
            if not wait(stack.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            wait(stack.aclose())
