"""The methods of `Engine` for kernels, the memory bus, and maps."""

from __future__ import annotations

import contextvars
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from .._core import Bus, Kernel, NativeBuffer, NativeEngine
from ..native.registry import kernels
from .mapping import (
    NOT_GIVEN,
    Calls,
    Chunk,
    MapResults,
    NativeChunk,
    PythonChunk,
    call_sequentially,
    maybe_await,
)
from .task_handle import TaskHandle

if TYPE_CHECKING:
    from .._core import NativeBatch, NativeJob
    from .scheduler import Scheduler

_P = ParamSpec("_P")
_T = TypeVar("_T")

# How many chunks of map() are submitted for each worker or thread: one runs and one is queued.
_CHUNKS_AHEAD = 2
# The same for coroutine functions, which wait most of the time.
_COROUTINES_AHEAD = 64


class WorkMixin:
    """The methods of `Engine` for kernels, the memory bus, and maps."""

    _scheduler: Scheduler
    _native: NativeEngine

    @property
    def native_engine(self) -> NativeEngine:
        """The native workers and the memory bus of this engine. The loops of its threads use it."""
        return self._native

    @property
    def bus(self) -> Bus:
        """The memory bus of this engine."""
        return self._native.bus

    def memory_bus_push(self, key: str | bytes, data: Any, size: int | None = None) -> None:
        """`bus.push()`."""
        self._native.bus.push(key, data, size)

    def memory_bus_pop(self, key: str | bytes) -> NativeBuffer:
        """`bus.pop()`; it does not remove the key."""
        return self._native.bus.pop(key)

    @overload
    def run_native(
        self, kernel: Kernel[_P, _T], /, *args: _P.args, **options: _P.kwargs
    ) -> NativeJob[_T]: ...
    @overload
    def run_native(self, kernel: str, /, *args: Any, **options: Any) -> NativeJob[Any]: ...
    def run_native(self, kernel: Any, /, *args: Any, **options: Any) -> NativeJob[Any]:
        """Run a kernel on a native worker, like `loop.run_native()`, from any thread.

        `await` the job in any asyncio loop, or call its `result()`.
        """
        self._check_open()
        return self._native.run_native(kernel, *args, **options)

    @overload
    def run_native_many(
        self, kernel: Kernel[..., _T], calls: Iterable[Any], /, **options: Any
    ) -> NativeBatch[_T]: ...
    @overload
    def run_native_many(
        self, kernel: str, calls: Iterable[Any], /, **options: Any
    ) -> NativeBatch[Any]: ...
    def run_native_many(
        self, kernel: Any, calls: Iterable[Any], /, **options: Any
    ) -> NativeBatch[Any]:
        """Submit many calls of a kernel, like `loop.run_native_many()`, from any thread."""
        self._check_open()
        return self._native.run_native_many(kernel, calls, **options)

    def map(
        self,
        function: Callable[..., Any] | Kernel | str,
        *iterables: Iterable[Any],
        chunksize: int = 1,
        buffersize: int | None = None,
        ordered: bool = True,
        timeout: float | None = None,
        priority: int = 0,
        return_exceptions: bool = False,
    ) -> MapResults[Any]:
        """Call a kernel on native workers, or a function on the threads, for each item.

        Like the built-in `map()`, with one argument from each iterable. A kernel may be given by
        its name. Kernels run in parallel on every Python. Functions run in parallel only without a
        GIL, and each call blocks the loop of its thread; coroutine functions run concurrently. The
        calls do not count for `tasks_per_thread`.

        Args:
            chunksize: how many calls are submitted together; increase it for calls that take
                microseconds.
            buffersize: how many items may be taken ahead of the results. The default keeps all
                workers busy: two chunks for each native worker or thread, 64 calls of coroutine
                functions for each thread.
            ordered: false gives the results as the chunks end.
            timeout: seconds from now; waiting longer for a result raises `TimeoutError`, and the
                calls that have not ended are cancelled.
            priority: that of the jobs of a kernel; those with a higher priority run first.
            return_exceptions: the exceptions of calls are results, and do not end the iteration.

        The first items are taken at once, further ones as results are consumed: with `for` in a
        thread without a running loop, with `async for` in a coroutine.
        """
        self._check_open()
        submit, ahead = self._submitter(function, priority, return_exceptions)
        if not iterables:
            raise TypeError("map() needs at least one iterable")
        if chunksize < 1:
            raise ValueError(f"chunksize must be at least 1, not {chunksize}")
        if buffersize is None:
            buffersize = ahead * chunksize
        elif buffersize < 1:
            raise ValueError(f"buffersize must be at least 1, not {buffersize}")
        arguments = zip(*iterables, strict=False)
        deadline = None if timeout is None else time.monotonic() + timeout
        return MapResults(
            submit, arguments, chunksize, buffersize, ordered=ordered, deadline=deadline
        )

    def map_reduce(
        self,
        function: Callable[..., Any] | Kernel | str,
        reducer: Callable[[Any, Any], Any] | Kernel | str,
        iterable: Iterable[Any],
        initial: Any = NOT_GIVEN,
        *,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> TaskHandle[Any]:
        """`functools.reduce(reducer, engine.map(function, iterable), initial)`, as a handle.

        A task on one of the threads takes the items and reduces the results in order, while others
        are computed. The reducer may be a kernel or a coroutine function as well.
        """
        self._check_open()
        reduce = self._reducer(reducer)
        # Raises for wrong arguments.
        self._submitter(function)
        iterator = iter(iterable)

        async def main() -> Any:
            results: AsyncIterator[Any] = self.map(
                function, iterator, chunksize=chunksize, buffersize=buffersize
            )
            value = initial
            async for result in results:
                value = result if value is NOT_GIVEN else await maybe_await(reduce(value, result))
            if value is NOT_GIVEN:
                raise TypeError("map_reduce() of an empty iterable needs an initial value")
            return value

        return self._spawn_service(main(), f"map_reduce {_name(function)}")

    def _reducer(self, reducer: Any) -> Callable[[Any, Any], Any]:
        if isinstance(reducer, (Kernel, str)):
            kernel = _kernel(reducer)
            return lambda value, result: self._native.run_native(kernel, value, result)
        if not callable(reducer):
            raise TypeError(f"a function or a kernel is expected, not {reducer!r}")
        function: Callable[[Any, Any], Any] = reducer
        return function

    def _submitter(
        self, function: Any, priority: int = 0, return_exceptions: bool = False
    ) -> tuple[Callable[[Calls], Chunk], int]:
        """A function that submits a chunk, and how many chunks to submit ahead."""
        if isinstance(function, (Kernel, str)):
            kernel, native = _kernel(function), self._native

            def submit_kernel(calls: Calls) -> Chunk:
                batch = native.run_native_many(
                    kernel, calls, priority=priority, return_exceptions=True
                )
                return NativeChunk(batch, return_exceptions)

            return submit_kernel, _CHUNKS_AHEAD * int(native.stats()["threads"])
        if not callable(function):
            raise TypeError(f"a function or a kernel is expected, not {function!r}")
        if priority:
            raise ValueError("only kernels have a priority")
        name = f"map {_name(function)}"

        def submit_function(calls: Calls) -> Chunk:
            coroutine = call_sequentially(function, calls, return_exceptions)
            return PythonChunk(self._spawn_service(coroutine, name))

        threads = len(self._scheduler.threads)
        ahead = _COROUTINES_AHEAD if inspect.iscoroutinefunction(function) else _CHUNKS_AHEAD
        return submit_function, ahead * threads

    def _spawn_service(self, coroutine: Any, name: str) -> TaskHandle[Any]:
        context = contextvars.copy_context()
        handle: TaskHandle[Any] = TaskHandle(self._scheduler, coroutine, context, name)
        try:
            self._scheduler.schedule_service(handle, None)
        except BaseException:
            coroutine.close()
            raise
        return handle

    def _check_open(self) -> None:
        self._scheduler.check_process()
        if not self._scheduler.open:
            raise self._scheduler.make_closed_error()


def _kernel(kernel: Kernel | str) -> Kernel:
    return kernels[kernel] if isinstance(kernel, str) else kernel


def _name(function: Any) -> str:
    if isinstance(function, Kernel):
        return function.name
    return function if isinstance(function, str) else getattr(function, "__name__", repr(function))
