"""`GeneratorRunner`: plain generators as concurrent tasks.

A generator can be suspended and resumed, which is all that a task needs. The value that it yields
is what it waits for:

=====================================  ============================================================
`yield`                                the next iteration of the loop, so that other tasks run
`yield 0.5`                            a time in seconds
`yield awaitable`                      a coroutine, future or task; its result is the value of the
                                       `yield` expression, its exception is raised there
`yield sock`                           anything with `fileno()`, until it is readable
`yield readable(fd)`, `writable(fd)`   a file descriptor, until it is readable or writable
=====================================  ============================================================

`return value` sets the result of the task; `yield from` delegates as usual.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from .loop.loop import run

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["GeneratorRunner", "GeneratorTask", "readable", "writable"]

_T = TypeVar("_T")


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class _FileReady:
    """A descriptor that a generator waits for."""

    __slots__ = ("file", "write")

    def __init__(self, file: FileDescriptorLike, write: bool) -> None:
        self.file = file
        self.write = write

    def __repr__(self) -> str:
        return f"{'writable' if self.write else 'readable'}({self.file!r})"


def readable(file: FileDescriptorLike) -> _FileReady:
    """For `yield`: wait until a descriptor is readable."""
    return _FileReady(file, write=False)


def writable(file: FileDescriptorLike) -> _FileReady:
    """For `yield`: wait until a descriptor is writable."""
    return _FileReady(file, write=True)


def call_hint(given: Any) -> str:
    """The end of an error message for a function that was passed instead of its result."""
    return "; call the function first" if callable(given) else ""


async def wait_ready(ready: _FileReady) -> None:
    """Wait in the running loop until a descriptor is ready."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    if ready.write:
        add, remove = loop.add_writer, loop.remove_writer
    else:
        add, remove = loop.add_reader, loop.remove_reader
    add(ready.file, wake)
    try:
        await future
    finally:
        remove(ready.file)


async def _wait_for_yielded(wanted: Any) -> Any:
    """Wait for a yielded value other than `None`."""
    if isinstance(wanted, (int, float)) and not isinstance(wanted, bool):
        return await asyncio.sleep(wanted)
    if isinstance(wanted, _FileReady):
        return await wait_ready(wanted)
    if inspect.isawaitable(wanted):
        return await wanted
    if hasattr(wanted, "fileno"):
        return await wait_ready(readable(wanted))
    raise TypeError(
        f"a generator may yield None, a number of seconds, an awaitable or a file, not {wanted!r}"
    )


async def drive(generator: Generator[Any, Any, _T], *, drain: bool = False) -> _T:
    """Run a generator in the current task, and return its value.

    With `drain`, a bare `yield` does not let other tasks run.
    """
    value: Any = None
    error: BaseException | None = None
    try:
        while True:
            try:
                wanted = generator.send(value) if error is None else generator.throw(error)
            except StopIteration as end:
                result: _T = end.value
                return result
            value = error = None
            try:
                if wanted is not None:
                    value = await _wait_for_yielded(wanted)
                elif not drain:
                    await asyncio.sleep(0)
            except BaseException as raised:
                # CancelledError too: the generator may clean up, or ignore it.
                error = raised
    finally:
        generator.close()


class GeneratorTask(Generic[_T]):
    """A generator that runs in a `GeneratorRunner`."""

    def __init__(self, generator: Generator[Any, Any, _T], name: str | None) -> None:
        self._generator = generator
        self._name: str = name or getattr(generator, "__name__", None) or repr(generator)
        self._task: asyncio.Task[_T] | None = None
        self._cancelled = False

    def __repr__(self) -> str:
        state = "waiting" if self._task is None else "done" if self.done() else "running"
        return f"<GeneratorTask {self._name} {'cancelled' if self.cancelled() else state}>"

    def get_name(self) -> str:
        """The name given to `create_task()`, or the name of the generator."""
        return self._name

    def done(self) -> bool:
        """Whether the generator has returned, raised an exception, or was cancelled."""
        return self._cancelled or (self._task is not None and self._task.done())

    def cancelled(self) -> bool:
        """Whether the task was cancelled, and the generator did not catch that."""
        return self._cancelled or (self._task is not None and self._task.cancelled())

    def cancel(self) -> bool:
        """Raise `CancelledError` at the `yield` of the generator; `False` if it has ended."""
        if self.done():
            return False
        if self._task is not None:
            return self._task.cancel()
        self._generator.close()
        self._cancelled = True
        return True

    def result(self) -> _T:
        """The value that the generator returned; raises its exception.

        Raises `asyncio.InvalidStateError` if it has not ended, `asyncio.CancelledError` if it was
        cancelled.
        """
        return self._finished().result()

    def exception(self) -> BaseException | None:
        """The exception of the generator, or `None`; otherwise like `result()`."""
        return self._finished().exception()

    def _finished(self) -> asyncio.Task[_T]:
        if self._cancelled:
            raise asyncio.CancelledError
        if self._task is None:
            raise asyncio.InvalidStateError(f"{self._name} has not started")
        return self._task


class GeneratorRunner:
    """Runs generators as tasks on a new loop.

    With `policy="round_robin"`, a bare `yield` switches to the next generator. With
    `policy="drain"`, each generator runs to its end before the next one begins.

    >>> def count(name):
    ...     for i in range(2):
    ...         print(name, i)
    ...         yield
    >>> runner = GeneratorRunner()
    >>> _, _ = runner.create_task(count("a")), runner.create_task(count("b"))
    >>> _ = runner.run()
    a 0
    b 0
    a 1
    b 1
    """

    def __init__(self, policy: Literal["round_robin", "drain"] = "round_robin") -> None:
        if policy not in ("round_robin", "drain"):
            raise ValueError(f"policy must be 'round_robin' or 'drain', not {policy!r}")
        self._policy = policy
        self._waiting: deque[GeneratorTask[Any]] = deque()
        self._started_tasks: list[GeneratorTask[Any]] = []
        self._running: set[asyncio.Task[Any]] = set()
        # While the runner runs: wakes its main task.
        self._wakeup: asyncio.Event | None = None

    def create_task(
        self, generator: Generator[Any, Any, _T], *, name: str | None = None
    ) -> GeneratorTask[_T]:
        """Add a generator, also while the runner runs. `TypeError` for anything else."""
        if not isinstance(generator, Generator):
            raise TypeError(f"a generator is expected, not {generator!r}{call_hint(generator)}")
        task = GeneratorTask(generator, name)
        self._waiting.append(task)
        if self._wakeup is not None:
            self._wakeup.set()
        return task

    def run(self) -> list[GeneratorTask[Any]]:
        """Run until all generators have ended; return their tasks in the order of their start.

        An exception of a generator does not stop the others: it is stored in its task, and logged
        if it is never retrieved. `KeyboardInterrupt` and `SystemExit` stop the run and close all
        generators.
        """
        if self._wakeup is not None:
            raise RuntimeError("the runner is running")
        self._started_tasks = []
        run(self._main())
        return self._started_tasks

    async def _main(self) -> None:
        self._wakeup = wakeup = asyncio.Event()
        try:
            while True:
                while self._waiting and not (self._running and self._policy == "drain"):
                    self._start_task(self._waiting.popleft())
                if not self._running:
                    break
                wakeup.clear()
                await wakeup.wait()
        finally:
            self._wakeup = None

    def _start_task(self, task: GeneratorTask[Any]) -> None:
        self._started_tasks.append(task)
        if task.cancelled():
            return
        coroutine = drive(task._generator, drain=self._policy == "drain")
        running = asyncio.get_running_loop().create_task(coroutine, name=task.get_name())
        task._task = running
        self._running.add(running)
        running.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if self._wakeup is not None and not self._running:
            self._wakeup.set()
