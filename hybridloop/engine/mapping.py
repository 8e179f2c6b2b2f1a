"""`Engine.map()`: calls a function or a kernel for many items, with ordered results."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from ..native.errors import NativeQueueFullError

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

    def wait(self) -> Outcome: ...
    async def outcome(self) -> Outcome: ...
    def cancel(self) -> object: ...


class _FailedChunk:
    """In the place of a chunk that could not be submitted."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def wait(self) -> Outcome:
        return [], self.error

    async def outcome(self) -> Outcome:
        return [], self.error

    def cancel(self) -> None:
        pass


class NativeChunk:
    """Calls of a kernel, as a `NativeBatch`."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def wait(self) -> Outcome:
        return self._split_at_exception(self.batch.result())

    async def outcome(self) -> Outcome:
        return self._split_at_exception(await self.batch)

    def cancel(self) -> object:
        return self.batch.cancel()

    @staticmethod
    def _split_at_exception(results: list[Any]) -> Outcome:
        # The value of a kernel is never an exception object.
        for number, result in enumerate(results):
            if isinstance(result, BaseException):
                return results[:number], result
        return results, None


class PythonChunk:
    """Calls of a Python function, in one task."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def wait(self) -> Outcome:
        outcome: Outcome = self.handle.result()
        return outcome

    async def outcome(self) -> Outcome:
        outcome: Outcome = await self.handle
        return outcome

    def cancel(self) -> object:
        return self.handle.cancel()


async def call_sequentially(function: Callable[..., Any], calls: Calls) -> Outcome:
    """The coroutine of a `PythonChunk`. Awaitable results are awaited."""
    values: list[Any] = []
    for arguments in calls:
        if values:
            # Let other tasks run between two calls.
            await asyncio.sleep(0)
        try:
            values.append(await maybe_await(function(*arguments)))
        except Exception as error:
            return values, error
    return values, None


async def maybe_await(value: Any) -> Any:
    """Await an awaitable; return anything else unchanged."""
    return await value if inspect.isawaitable(value) else value


class MapResults(Generic[_T]):
    """An iterator over the results of `Engine.map()`: `for` in threads, `async for` in tasks.

    Results have the order of the items. An exception of a call is raised in the place of its result
    and ends the iteration. `close()`, deleting the iterator, and cancelling the iterating task end
    it too. Calls that have not ended are cancelled then.
    """

    def __init__(
        self,
        submit: Callable[[Calls], Chunk],
        arguments: Iterator[tuple[Any, ...]],
        chunksize: int,
        buffersize: int,
    ) -> None:
        self._submit = submit
        self._arguments: Iterator[tuple[Any, ...]] | None = arguments
        self._chunksize = chunksize
        self._buffersize = max(buffersize, chunksize)
        self._chunks: deque[Chunk] = deque()
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
                self._end_wait(chunk.wait())
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
                self._end_wait(await chunk.outcome())
            except BaseException:
                self.close()
                raise
            finally:
                self._waiting = False
        return self._pop_value()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the calls that have not ended, and end the iteration."""
        self._arguments = None
        self._unsubmitted = []
        self._error = None
        self._values.clear()
        while self._chunks:
            self._chunks.popleft().cancel()

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
        return self._chunks[0]

    def _end_wait(self, outcome: Outcome) -> None:
        values, self._error = outcome
        if self._chunks:
            self._chunks.popleft()
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
                    self._chunks.append(self._submit(calls))
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
                self._chunks.append(_FailedChunk(failure))

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
