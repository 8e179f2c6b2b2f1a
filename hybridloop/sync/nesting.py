"""`nest()`: `run_until_complete()` and `asyncio.run()` within a running loop."""

from __future__ import annotations

import asyncio
import functools
from asyncio import runners
from collections.abc import Callable
from typing import Any

from .._core import LoopCore
from ..loop.loop import nesting
from .awaiting import await_, make_stacks, stacks_of
from .errors import check_python
from .prepared import prepare
from .tasks import swap_current_task

_replaced = False
_all_loops = False


def nest(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Let `run_until_complete()` of this loop, or of all loops of hybridloop, wait inside it.

    So do `asyncio.run()` and `asyncio.Runner.run()` where such a loop runs: the coroutine becomes a
    task of that loop. Without this they raise, as in asyncio.
    """
    global _all_loops
    check_python()
    if loop is None:
        _all_loops = True
    elif isinstance(loop, LoopCore):
        make_stacks(loop).nested = True
    else:
        prepare(loop)
        stacks = make_stacks(loop)
        if not stacks.nested:
            stacks.nested = True
            any_loop: Any = loop
            any_loop.run_until_complete = functools.partial(
                _run_until_complete, loop, loop.run_until_complete
            )
    _replace_runners()


def unnest(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Undo `nest()` with the same argument."""
    global _all_loops
    if loop is None:
        _all_loops = False
    elif (stacks := stacks_of(loop)) is not None:
        stacks.nested = False


def _nests(loop: Any) -> bool:
    if isinstance(loop, LoopCore) and (_all_loops or hasattr(asyncio, "_nest_patched")):
        return True
    stacks = stacks_of(loop)
    return stacks is not None and stacks.nested


def run_nested(loop: Any, future: Any, **options: Any) -> Any:
    """`run_until_complete(future)` within the loop that runs here."""
    if options:
        future = loop.create_task(future, **options)
        is_own = True
    else:
        task = asyncio.ensure_future(future, loop=loop)
        is_own = task is not future
        future = task
    if is_own:
        # Like `run_until_complete()`, this does not report a task that is left.
        future._log_destroy_pending = False
    try:
        return await_(future)
    finally:
        if is_own and not future.done():
            future.cancel()


def _run_until_complete(loop: Any, original: Callable[[Any], Any], future: Any) -> Any:
    """`run_until_complete()` of a prepared loop of asyncio."""
    if asyncio._get_running_loop() is loop and _nests(loop):
        return run_nested(loop, future)
    return original(future)


def _replace_runners() -> None:
    global _replaced
    if _replaced:
        return
    _replaced = True
    run_of_asyncio, run_of_runner = asyncio.run, asyncio.Runner.run
    close_of_runner = asyncio.Runner.close

    @functools.wraps(run_of_asyncio)
    def run(main: Any, **options: Any) -> Any:
        loop = asyncio._get_running_loop()
        if loop is not None and _nests(loop):
            return run_nested(loop, main)
        return run_of_asyncio(main, **options)

    @functools.wraps(run_of_runner)
    def run_in_runner(self: asyncio.Runner, coro: Any, *, context: Any = None) -> Any:
        loop = asyncio._get_running_loop()
        if loop is not None and _nests(loop):
            return run_nested(loop, coro, **({} if context is None else {"context": context}))
        return run_of_runner(self, coro, context=context)

    @functools.wraps(close_of_runner)
    def close_runner(self: asyncio.Runner) -> None:
        loop = asyncio._get_running_loop()
        if loop is None or not _nests(loop):
            close_of_runner(self)
            return
        # The runner has a loop of its own, which has run nothing: it ends at once.
        task = asyncio.current_task(loop)
        if task is not None:
            swap_current_task(loop, None)
        asyncio._set_running_loop(None)
        try:
            close_of_runner(self)
        finally:
            asyncio._set_running_loop(loop)
            if task is not None:
                swap_current_task(loop, task)

    asyncio.run = runners.run = run
    asyncio.Runner.run = run_in_runner  # type: ignore[method-assign]
    asyncio.Runner.close = close_runner  # type: ignore[method-assign]


def _nested_runner(loop: Any) -> Callable[[Any, Any], Any] | None:
    return run_nested if _nests(loop) else None


nesting.find_runner = _nested_runner
