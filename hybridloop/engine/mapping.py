"""`Engine.map()`: calls a function or a kernel for many items."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from ..native.errors import NativeQueueFullError
from . import signal_safe_wait

_T = TypeVar("_T")

# The arguments of the calls in a chunk, and its result: the values up to the first exception.
Calls = list[tuple[Any, ...]]
Outcome = tuple[list[Any], BaseException | None]


class _NotGiven:
    def __repr__(self) -> str:
        return "<not given>"


NOT_GIVEN: Any = _NotGiven()
"""A default for arguments that may be `None`, with a readable `repr()`."""


class Chunk(Protocol):
    """Calls that were submitted together."""

    def wait(self, timeout: float | None) -> Outcome: ...
    async def outcome(self, shielded: bool) -> Outcome:
        """With `shielded`, cancelling the awaiting task does not cancel the calls."""

    def when_done(self, callback: Callable[[Any], object]) -> None:
        """Call `callback` when it has ended, in any thread, or now if it has."""

    def cancel(self) -> object: ...


class _FailedChunk:
    """In the place of a chunk that could not be submitted."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def wait(self, timeout: float | None) -> Outcome:
        return [], self.error

    async def outcome(self, shielded: bool) -> Outcome:
        return [], self.error

    def when_done(self, callback: Callable[[Any], object]) -> None:
        """It is the last chunk, and is taken when no other is left."""

    def cancel(self) -> None:
        pass


class NativeChunk:
    """Calls of a kernel, as a `NativeBatch`."""

    def __init__(self, batch: Any, return_exceptions: bool) -> None:
        self.batch = batch
        self.return_exceptions = return_exceptions

    def wait(self, timeout: float | None) -> Outcome:
        return self._split_at_exception(self.batch.result(timeout))

    async def outcome(self, shielded: bool) -> Outcome:
        batch = asyncio.shield(self.batch) if shielded else self.batch
        return self._split_at_exception(await batch)

    def when_done(self, callback: Callable[[Any], object]) -> None:
        self.batch._add_thread_callback(callback)

    def cancel(self) -> object:
        return self.batch.cancel()

    def _split_at_exception(self, results: list[Any]) -> Outcome:
        if self.return_exceptions:
            return results, None
        # The value of a kernel is never an exception object.
        for number, result in enumerate(results):
            if isinstance(result, BaseException):
                return results[:number], result
        return results, None


class PythonChunk:
    """Calls of a Python function, in one task."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def wait(self, timeout: float | None) -> Outcome:
        outcome: Outcome = self.handle.result(timeout)
        return outcome

    async def outcome(self, shielded: bool) -> Outcome:
        outcome: Outcome = await self.handle
        return outcome

    def when_done(self, callback: Callable[[Any], object]) -> None:
        self.handle.add_done_callback(callback)

    def cancel(self) -> object:
        return self.handle.cancel()


async def call_sequentially(
    function: Callable[..., Any], calls: Calls, return_exceptions: bool
) -> Outcome:
    """The coroutine of a `PythonChunk`. Awaitable results are awaited."""
    values: list[Any] = []
    for arguments in calls:
        if values:
            # Let other tasks run between two calls.
            await asyncio.sleep(0)
        try:
            values.append(await maybe_await(function(*arguments)))
        except Exception as error:
            if not return_exceptions:
                return values, error
            values.append(error)
    return values, None


async def maybe_await(value: Any) -> Any:
    """Await an awaitable; return anything else unchanged."""
    return await value if inspect.isawaitable(value) else value


class _EndedChunks:
    """The chunks that have ended, in that order, and who waits for the next one."""

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque()
        self._notify: Callable[[], object] | None = None
        self._lock = threading.Lock()

    def add(self, chunk: Chunk) -> None:
        with self._lock:
            self._chunks.append(chunk)
            notify, self._notify = self._notify, None
        if notify is not None:
            notify()

    def pop(self, notify: Callable[[], object]) -> Chunk | None:
        """A chunk, or `None`: then `notify` is called with the next one."""
        with self._lock:
            if self._chunks:
                return self._chunks.popleft()
            self._notify = notify
            return None

    def wait(self, timeout: float | None) -> Chunk:
        ended = threading.Event()
        while (chunk := self.pop(ended.set)) is None:
            if not signal_safe_wait.wait(ended, timeout):
                raise TimeoutError
            ended.clear()
        return chunk

    async def get(self) -> Chunk:
        loop = asyncio.get_running_loop()
        while True:
            future: asyncio.Future[None] = loop.create_future()

            def notify(future: asyncio.Future[None] = future) -> None:
                # RuntimeError: the loop is closed.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(_resolve, future)

            if (chunk := self.pop(notify)) is not None:
                return chunk
            await future


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class MapResults(Generic[_T]):
    """An iterator over the results of `Engine.map()`: `for` in threads, `async for` in tasks.

    Results have the order of the items, unless `ordered` is false: then those of a chunk come when
    it has ended. An exception of a call is raised in the place of its result and ends the
    iteration. `close()`, deleting the iterator, a timeout, and cancelling the iterating task end it
    too. Calls that have not ended are cancelled then.
    """

    def __init__(
        self,
        submit: Callable[[Calls], Chunk],
        arguments: Iterator[tuple[Any, ...]],
        chunksize: int,
        buffersize: int,
        *,
        ordered: bool = True,
        deadline: float | None = None,
    ) -> None:
        self._submit = submit
        self._arguments: Iterator[tuple[Any, ...]] | None = arguments
        self._chunksize = chunksize
        self._buffersize = max(buffersize, chunksize)
        # A dictionary: in any order, chunks are removed as they end.
        self._chunks: dict[Chunk, None] = {}
        self._ended = None if ordered else _EndedChunks()
        self._deadline = deadline
        # Calls that did not fit into the queue.
        self._unsubmitted: Calls = []
        # The number of items whose results were not returned yet.
        self._outstanding = 0
        self._values: deque[_T] = deque()
        self._error: BaseException | None = None
        self._waiting = False
        self._fill()

    def __iter__(self) -> MapResults[_T]:
        return self

    def __next__(self) -> _T:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("this would block the running loop; use 'async for'")
        while not self._values:
            if (chunk := self._begin_wait()) is None:
                raise StopIteration
            try:
                if self._ended is not None and not isinstance(chunk, _FailedChunk):
                    chunk = self._ended.wait(self._remaining())
                self._end_wait(chunk, chunk.wait(self._remaining()))
            except BaseException:
                self.close()
                raise
            finally:
                self._waiting = False
        return self._pop_value()

    def __aiter__(self) -> MapResults[_T]:
        return self

    async def __anext__(self) -> _T:
        while not self._values:
            if (chunk := self._begin_wait()) is None:
                raise StopAsyncIteration
            try:
                if self._deadline is None:
                    await self._wait_for(chunk)
                else:
                    async with asyncio.timeout(self._remaining()):
                        await self._wait_for(chunk)
            except BaseException:
                self.close()
                raise
            finally:
                self._waiting = False
        return self._pop_value()

    async def _wait_for(self, chunk: Chunk) -> None:
        if self._ended is not None and not isinstance(chunk, _FailedChunk):
            chunk = await self._ended.get()
        # asyncio.timeout() wants its CancelledError back, which is a result of cancelled calls.
        self._end_wait(chunk, await chunk.outcome(self._deadline is not None))

    def _remaining(self) -> float | None:
        """The seconds until the timeout."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the calls that have not ended, and end the iteration."""
        self._arguments = None
        self._unsubmitted = []
        self._error = None
        self._values.clear()
        while self._chunks:
            self._chunks.popitem()[0].cancel()

    def _begin_wait(self) -> Chunk | None:
        if self._waiting:
            raise RuntimeError("another task or thread is waiting for the next result")
        if self._error is not None:
            error = self._error
            self.close()
            raise error
        self._fill()
        if not self._chunks:
            return None
        self._waiting = True
        return next(iter(self._chunks))

    def _end_wait(self, chunk: Chunk, outcome: Outcome) -> None:
        values, self._error = outcome
        # The iterator may have been closed meanwhile.
        if chunk in self._chunks:
            del self._chunks[chunk]
            self._values.extend(values)
            if self._error is None:
                self._fill()

    def _pop_value(self) -> _T:
        self._outstanding -= 1
        value = self._values.popleft()
        if self._error is None:
            self._fill()
        return value

    def _fill(self) -> None:
        """Submit calls until `buffersize` items were taken."""
        while self._unsubmitted or (
            self._arguments is not None and self._outstanding + self._chunksize <= self._buffersize
        ):
            calls, failure = (self._unsubmitted, None) if self._unsubmitted else self._take_calls()
            self._unsubmitted = []
            if calls:
                try:
                    self._add(self._submit(calls))
                except NativeQueueFullError as error:
                    if self._chunks:
                        # Try again when one of the chunks has ended.
                        self._unsubmitted = calls
                        return
                    failure = error
                except Exception as error:
                    failure = error
            if failure is not None:
                self._arguments = None
                self._add(_FailedChunk(failure))

    def _add(self, chunk: Chunk) -> None:
        self._chunks[chunk] = None
        ended = self._ended
        if ended is not None:
            chunk.when_done(lambda _: ended.add(chunk))

    def _take_calls(self) -> tuple[Calls, BaseException | None]:
        calls: Calls = []
        failure = None
        try:
            assert self._arguments is not None
            # Not list(): the items before an exception count.
            calls.extend(islice(self._arguments, self._chunksize))
        except Exception as error:
            failure = error
        self._outstanding += len(calls)
        if len(calls) < self._chunksize:
            self._arguments = None
        return calls, failure
