"""Cancels an awaitable at each of its awaits in turn, and accounts for everything afterwards.

An operation is a coroutine function that takes a `Walk` and awaits one thing with `walk.attempt()`.
It is run again and again: cancelled while it waits for the first time, the second time and so on,
until it is through before its turn comes. Each cancellation happens in two ways: while the awaited
thing is still to come, and when it has just come, in the same iteration of the loop.
"""

import asyncio
import contextlib
import gc
import time
import types
import warnings

import psutil

from tests.support.descriptors import name_of, open_fds


def child_processes():
    return {child.pid for child in psutil.Process().children()}


# More awaits than any operation has; reaching it means that the walk has no end.
LIMIT = 300


class Outcome:
    """What became of an attempt."""

    def __init__(self, value=None, error=None):
        self.value = value
        self.error = error

    @property
    def kind(self):
        return "result" if self.error is None else type(self.error).__name__

    @property
    def succeeded(self):
        return self.error is None


class Walk:
    """One run of an operation, cancelled at its `stop_at`-th await."""

    def __init__(self, loop, stop_at, late, tmp_path):
        self.loop = loop
        self.stop_at = stop_at
        self.late = late
        self.tmp_path = tmp_path
        self.awaits = 0
        self.outcome = None
        # Helpers of multiprocessing, for example, that other tests have started.
        self.other_children = child_processes()
        self.stack = contextlib.AsyncExitStack()

    @property
    def reached(self):
        return self.awaits >= self.stop_at

    @types.coroutine
    def _counted(self, awaitable):
        steps = awaitable.__await__()
        send, argument = steps.send, None
        while True:
            try:
                future = send(argument)
            except StopIteration as done:
                return done.value
            self.awaits += 1
            if self.awaits == self.stop_at:
                self._cancel(asyncio.current_task(), future)
            try:
                send, argument = steps.send, (yield future)
            except BaseException as error:
                send, argument = steps.throw, error

    def _cancel(self, task, future):
        if self.late and future is not None:
            # Before the task itself is woken: the result is there and is not taken.
            future.add_done_callback(lambda _: task.cancel())
        else:
            self.loop.call_soon(task.cancel)

    async def attempt(self, awaitable):
        """Await it in a task of its own and say what happened."""

        async def counted():
            return await self._counted(awaitable)

        task = self.loop.create_task(counted())
        await asyncio.wait([task])
        if task.cancelled():
            self.outcome = Outcome(error=asyncio.CancelledError())
        elif task.exception() is not None:
            self.outcome = Outcome(error=task.exception())
        else:
            self.outcome = Outcome(task.result())
        return self.outcome

    def closing(self, thing):
        """Close it when the run is over."""
        self.stack.callback(thing.close)
        return thing

    async def until(self, condition, timeout=60):
        deadline = time.monotonic() + timeout
        while not (result := condition()):
            assert time.monotonic() < deadline, "it did not come true"
            await asyncio.sleep(0.0005)
        return result


class Report:
    """What a whole walk has shown."""

    def __init__(self):
        self.kinds = set()
        self.warnings = 0
        self.leaks = []
        self.runs = 0
        self.contexts = []


async def one_run(loop, operation, stop_at, late, tmp_path, report):
    walk = Walk(loop, stop_at, late, tmp_path)
    async with walk.stack:
        await operation(walk)
    report.kinds.add(walk.outcome.kind)
    report.runs += 1
    await walk.until(lambda: len(asyncio.all_tasks()) == 1)
    return walk.reached


async def settled(fds, patience):
    """Descriptors left over once everything had the time to end."""
    deadline = time.monotonic() + patience
    while left := open_fds() - fds:
        if time.monotonic() > deadline:
            return {fd: name_of(fd) for fd in left}
        gc.collect()
        await asyncio.sleep(0.001)
    return {}


async def walk_through(loop, operation, tmp_path, report):
    # The first run opens what stays open: the selector's parts, the pool of the executor.
    await one_run(loop, operation, LIMIT, False, tmp_path, report)
    gc.collect()
    for late in (False, True):
        for stop_at in range(1, LIMIT):
            fds = open_fds()
            again = await one_run(loop, operation, stop_at, late, tmp_path, report)
            left = await settled(fds, report.patience)
            if left:
                report.leaks.append((stop_at, late, left))
                if report.patience > 1:
                    return
            if not again:
                break
        else:
            raise AssertionError(f"{operation.__name__} has no end")


def walk(loop_factory, operation, tmp_path, patience=60.0):
    """The whole walk on a loop of its own."""
    report = Report()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        gc.collect()
        caught.clear()  # what others have left
        loop = loop_factory()
        loop.set_exception_handler(lambda _, context: report.contexts.append(context))
        report.patience = patience
        try:
            loop.run_until_complete(walk_through(loop, operation, tmp_path, report))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
        del loop
        gc.collect()
    report.warnings = sum(issubclass(w.category, ResourceWarning) for w in caught)
    return report


def compare(loop_factory, operation, tmp_path):
    """The loop under test must end as asyncio does, and leave nothing behind."""
    report = walk(loop_factory, operation, tmp_path)
    # What asyncio leaves behind is of no interest here: no need to wait for it.
    expected = walk(asyncio.SelectorEventLoop, operation, tmp_path, patience=0.05)
    # What needs no waiting here cannot be cancelled.
    assert report.kinds <= expected.kinds
    assert report.warnings <= expected.warnings
    assert not report.leaks, report.leaks
    assert not report.contexts or expected.contexts, report.contexts
    return report
