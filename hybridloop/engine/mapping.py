"""`Engine.map()`: one function or kernel, many items, results in order."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from ..native.errors import NativeQueueFullError

_T = TypeVar("_T")

# The arguments of each call in a chunk, and what became of them: values up to the first error.
Calls = list[tuple[Any, ...]]
Outcome = tuple[list[Any], BaseException | None]


class _NotGiven:
    def __repr__(self) -> str:
        return "<not given>"


NOT_GIVEN: Any = _NotGiven()
"""An argument's default where `None` may be given, that reads well in `help()`."""


class Chunk(Protocol):
    """Calls under way."""

    def wait(self) -> Outcome: ...
    async def outcome(self) -> Outcome: ...
    def cancel(self) -> object: ...


class _FailedChunk:
    """A chunk that could not be made, in its place."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def wait(self) -> Outcome:
        return [], self.error

    async def outcome(self) -> Outcome:
        return [], self.error

    def cancel(self) -> None:
        pass


class NativeChunk:
    """Calls of a kernel, as a batch."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def wait(self) -> Outcome:
        return self._sort(self.batch.result())

    async def outcome(self) -> Outcome:
        return self._sort(await self.batch)

    def cancel(self) -> object:
        return self.batch.cancel()

    @staticmethod
    def _sort(results: list[Any]) -> Outcome:
        # A kernel's value is never an exception.
        for number, result in enumerate(results):
            if isinstance(result, BaseException):
                return results[:number], result
        return results, None


class PythonChunk:
    """Calls of a Python function, one after the other in a task."""

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
    """The body of a `PythonChunk`; what the function returns is awaited if it can be."""
    values: list[Any] = []
    for arguments in calls:
        if values:
            # Others have their turn between two calls.
            await asyncio.sleep(0)
        try:
            values.append(await maybe_await(function(*arguments)))
        except Exception as error:
            return values, error
    return values, None


async def maybe_await(value: Any) -> Any:
    """What an awaitable gives; anything else itself."""
    return await value if inspect.isawaitable(value) else value


class MapResults(Generic[_T]):
    """What `Engine.map()` returns: an iterator, for `for` in plain threads, `async for` in tasks.

    Results come in the order of the items. The exception of a call is raised in its place and ends
    the iteration; so do `close()`, dropping the iterator, and cancelling the task that iterates.
    Calls that are under way are cancelled then.
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
        # Calls for which there was no room.
        self._unsubmitted: Calls = []
        # Items taken whose results have not been given.
        self._open = 0
        self._values: deque[_T] = deque()
        self._error: BaseException | None = None
        self._waiting = False
        self._fill()

    def __iter__(self) -> MapResults[_T]:
        return self

    def __next__(self) -> _T:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("waiting would block the running loop; use 'async for'")
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
        """Take no more items, and cancel the calls under way; nothing more comes out."""
        self._arguments = None
        self._unsubmitted = []
        self._error = None
        self._values.clear()
        while self._chunks:
            self._chunks.popleft().cancel()

    def _begin_wait(self) -> Chunk | None:
        if self._waiting:
            raise RuntimeError("somebody waits for the next result already")
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
        self._open -= 1
        value = self._values.popleft()
        if self._error is None:
            self._fill()
        return value

    def _fill(self) -> None:
        """Submit calls for as many items as may be under way."""
        while self._unsubmitted or (
            self._arguments is not None and self._open + self._chunksize <= self._buffersize
        ):
            calls, failure = (self._unsubmitted, None) if self._unsubmitted else self._take_calls()
            self._unsubmitted = []
            if calls:
                try:
                    self._chunks.append(self._submit(calls))
                except NativeQueueFullError as error:
                    if self._chunks:
                        # When one of these has ended it is tried again.
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
            # Not list(): what came before an error counts.
            calls.extend(islice(self._arguments, self._chunksize))
        except Exception as error:
            failure = error
        self._open += len(calls)
        if len(calls) < self._chunksize:
            self._arguments = None
        return calls, failure
