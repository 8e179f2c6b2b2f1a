"""Kernels on the workers of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import operator
import re
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn

from .._core import Kernel
from ..engine.mapping import Calls
from ..native.errors import NativeQueueFullError
from . import values
from .backend import Backend, Call, ClusterRef, Reply, WorkerInfo
from .errors import KernelLostError, KernelMismatchError
from .job import ClusterChunk, ClusterJob, ClusterMap
from .placement import Place, Placement
from .tables import ClusterKernel, KernelTables

# How many calls a worker may have at a time for each of its threads: one runs, one is on its way.
_CALLS_PER_THREAD = 2
_CHUNKS_AHEAD = 2
# More calls than this are no batch: all their arguments are here at the same time.
_BATCH_LIMIT = 1 << 20

_REFUSED = {
    "out": "a worker cannot write to the memory of this process; use the result",
    "key": "each worker has a bus of its own, there is none for the whole cluster; use put()",
    "cancel_policy": "a call ends when its kernel has returned, and so has freed its worker; "
    "cancel it a second time to stop waiting",
    "exactly_once": "a kernel whose worker is lost may have run or not: "
    "calls run at most once, or with retries= at least once",
}


@dataclass(frozen=True, slots=True)
class ClusterWorker:
    """A worker of a cluster."""

    address: str
    threads: int
    """Threads that run kernels."""
    limit: int
    """Calls that this client may have on it at a time."""
    running: int
    """Calls of this client that are under way."""
    engine: Mapping[str, int]
    """Statistics of its native engine, as of the last ping: `threads`, `running`, `queued`,
    `pending`, `done`, `failed`, `cancelled`, and `memory` in bytes."""


@dataclass(frozen=True, slots=True)
class ClusterStats:
    """The calls of this client. A batch or a chunk of a map is one call for each worker."""

    workers: int
    """Workers that are used."""
    waiting: int
    """Calls that wait for a worker."""
    running: int
    """Calls that are under way."""
    done: int
    """Calls that have returned a value."""
    failed: int
    """Calls that have raised an exception, other than `KernelLostError`."""
    cancelled: int
    """Calls that were cancelled."""
    lost: int
    """Calls that have raised `KernelLostError`."""


class Cluster:
    """Workers that run kernels: see `connect()`."""

    def __init__(
        self, backend: Backend, libraries: Iterable[str] = (), per_worker: int | None = None
    ) -> None:
        if per_worker is not None and per_worker < 1:
            raise ValueError(f"per_worker must be at least 1, not {per_worker}")
        if isinstance(libraries, str):
            raise TypeError("libraries must be a list of paths or modules, not a str")
        self._backend = backend
        self._libraries = [str(library) for library in libraries]
        self._per_worker = per_worker
        self._placement = Placement()
        self._tables = KernelTables()
        self._rejected: dict[str, str] = {}
        self._jobs: set[ClusterJob[Any]] = set()
        self._counts = dict.fromkeys(("done", "failed", "cancelled", "lost"), 0)
        self._running = 0
        self._numbers = itertools.count(1)
        self._follower: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Cluster:
        try:
            await self._backend.start(self._libraries)
            workers = self._backend.workers()
            self._tables.require_built_in()
            self._tables.check(workers)
        except BaseException:
            await self._backend.close()
            raise
        for worker in workers:
            self._use(worker)
        self._follower = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the calls that have not ended, and disconnect. The cluster itself goes on."""
        if self._closed:
            return
        self._closed = True
        for job in self._jobs:
            job.cancel()
        # Kernels see that they are cancelled, but the worker need not answer any more.
        await asyncio.sleep(0)
        for job in self._jobs:
            job.cancel()
        if self._follower:
            self._follower.cancel()
        try:
            await asyncio.gather(*self._jobs, return_exceptions=True)
        finally:
            await self._backend.close()

    @property
    def kernels(self) -> Mapping[str, ClusterKernel]:
        """The kernels of the workers by name."""
        return MappingProxyType(self._tables.common)

    @property
    def bus(self) -> NoReturn:
        """Raises `TypeError`: there is no memory bus for a whole cluster."""
        raise TypeError(_REFUSED["key"])

    @property
    def closed(self) -> bool:
        """Whether `aclose()` was called."""
        return self._closed

    def workers(self) -> dict[str, ClusterWorker]:
        """The workers that are used, by address."""
        engines = {worker.address: worker.engine for worker in self._backend.workers()}
        return {
            address: ClusterWorker(
                address, place.threads, place.limit, place.busy, engines.get(address, {})
            )
            # A copy: metrics are collected in other threads.
            for address, place in list(self._placement.places.items())
        }

    def stats(self) -> ClusterStats:
        """The calls of this client."""
        return ClusterStats(
            workers=len(self._placement.places),
            waiting=len(self._placement),
            running=self._running,
            **self._counts,
        )

    def run_native(
        self,
        kernel: Kernel | ClusterKernel | str,
        /,
        *args: Any,
        timeout: float | None = None,
        priority: int = 0,
        on_progress: Callable[[int, int], object] | None = None,
        retries: int | None = None,
        **refused: Any,
    ) -> ClusterJob[Any]:
        """Run a kernel on a worker, like `loop.run_native()`.

        Without `retries` the call goes to a worker directly, and runs at most once. With it the
        call goes through the scheduler and runs at least once: if its worker is lost, another one
        gets it. The scheduler repeats that as often as it is configured to
        (`distributed.scheduler.allowed-failures`), and this `retries` times.

        Buffers in the result are read-only memoryviews.
        """
        call = self._make_call(
            kernel, args, refused, timeout=timeout, priority=priority, on_progress=on_progress
        )
        if retries is None:
            return self._start(self._run(call))
        if operator.index(retries) < 0:
            raise ValueError(f"retries must be at least 0, not {retries}")
        return self._start(self._run_scheduled(call, retries))

    def run_native_many(
        self,
        kernel: Kernel | ClusterKernel | str,
        calls: Iterable[Sequence[Any]],
        /,
        *,
        timeout: float | None = None,
        priority: int = 0,
        return_exceptions: bool = False,
        **refused: Any,
    ) -> ClusterJob[list[Any]]:
        """Run many calls of a kernel, like `loop.run_native_many()`, with one message a worker.

        If a worker is lost, the calls that it had get a `KernelLostError`. More than 1,048,576
        calls are a `NativeQueueFullError`: `map()` takes any number.
        """
        options = {"timeout": timeout, "priority": priority}
        everything = [tuple(arguments) for arguments in itertools.islice(calls, _BATCH_LIMIT + 1)]
        if len(everything) > _BATCH_LIMIT:
            raise NativeQueueFullError(
                f"a batch may have {_BATCH_LIMIT} calls; map() takes any number"
            )
        parts = self._split(everything)
        made: dict[int, Call] = {}
        first = 0
        for part in parts:
            made[first] = self._make_batch(kernel, part, refused, first, **options)
            first += len(part)
        return self._start(self._run_batches(made, return_exceptions))

    def map(
        self,
        kernel: Kernel | ClusterKernel | str,
        *iterables: Iterable[Any],
        chunksize: int = 1,
        buffersize: int | None = None,
        ordered: bool = True,
        timeout: float | None = None,
        priority: int = 0,
        return_exceptions: bool = False,
    ) -> ClusterMap[Any]:
        """Call a kernel for each item, like `Engine.map()`, for `async for`.

        Args:
            chunksize: how many calls are sent to a worker together.
            buffersize: how many items may be taken ahead of the results. The default is two chunks
                for each thread of the workers.
            ordered: false gives the results as the chunks end.
            timeout: seconds from now; waiting longer for a result raises `TimeoutError`, and the
                calls that have not ended are cancelled.
            priority: chunks with a higher priority are sent, and run on their worker, first.
            return_exceptions: the exceptions of calls are results, and do not end the iteration.
        """
        if not iterables:
            raise TypeError("map() needs at least one iterable")
        if chunksize < 1:
            raise ValueError(f"chunksize must be at least 1, not {chunksize}")
        if buffersize is None:
            threads = sum(place.threads for place in self._placement.places.values())
            buffersize = chunksize * _CHUNKS_AHEAD * max(threads, 1)
        elif buffersize < 1:
            raise ValueError(f"buffersize must be at least 1, not {buffersize}")
        arguments = zip(*iterables, strict=False)
        deadline = None if timeout is None else time.monotonic() + timeout

        def submit(calls: Calls) -> ClusterChunk:
            call = self._make_batch(kernel, calls, {}, 0, priority=priority)
            return ClusterChunk(self._start(self._run_batches({0: call}, True)), return_exceptions)

        return ClusterMap(
            submit, arguments, chunksize, buffersize, ordered=ordered, deadline=deadline
        )

    async def put(self, value: Any) -> ClusterRef:
        """Store an argument on a worker, for any number of calls, which run where it is."""
        place = min(
            self._placement.places.values(), default=None, key=lambda it: (it.stored, it.last)
        )
        if place is None:
            raise self._no_worker()
        ref = await self._backend.put(value, place.address)
        place.stored += ref.nbytes
        return ref

    def _start(self, coroutine: Any) -> ClusterJob[Any]:
        if self._closed:
            coroutine.close()
            raise RuntimeError("the connection to the cluster is closed")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            coroutine.close()
            raise
        job: ClusterJob[Any] = ClusterJob(coroutine, loop=loop)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job

    def _make_call(
        self,
        kernel: Kernel | ClusterKernel | str,
        arguments: Sequence[Any],
        refused: Mapping[str, Any],
        **options: Any,
    ) -> Call:
        name = self._check_kernel(kernel, refused)
        frames: list[Any] = []
        refs = {place: it for place, it in enumerate(arguments) if isinstance(it, ClusterRef)}
        plain = [None if place in refs else it for place, it in enumerate(arguments)]
        encoded = values.encode(plain, frames, name)
        return Call(next(self._numbers), name, encoded, frames, refs, **options)

    def _make_batch(
        self,
        kernel: Kernel | ClusterKernel | str,
        calls: Sequence[Sequence[Any]],
        refused: Mapping[str, Any],
        first: int,
        **options: Any,
    ) -> Call:
        name = self._check_kernel(kernel, refused)
        frames: list[Any] = []
        encoded = []
        for number, arguments in enumerate(calls, first):
            if any(isinstance(argument, ClusterRef) for argument in arguments):
                raise TypeError(
                    f"call {number}: {name}: only run_native() takes what put() returns"
                )
            try:
                encoded.append(values.encode(arguments, frames, name))
            except (TypeError, ValueError) as error:
                raise type(error)(f"call {number}: {error}") from None
        return Call(next(self._numbers), name, encoded, frames, {}, batch=True, **options)

    def _check_kernel(
        self, kernel: Kernel | ClusterKernel | str, refused: Mapping[str, Any]
    ) -> str:
        for option, value in refused.items():
            if option not in _REFUSED:
                raise TypeError(f"unexpected keyword argument {option!r}")
            if value is not None and (option, value) != ("cancel_policy", "wait"):
                raise TypeError(
                    f"{option}={value!r} is not possible on a cluster: {_REFUSED[option]}"
                )
        if not self._tables.common and self._rejected:
            raise self._no_worker()
        found = self._tables.find(kernel)
        if found is None:
            # There was no worker yet. The first one will tell.
            return kernel if isinstance(kernel, str) else kernel.name
        if found.signature and re.search(r"[(,]\s*out\s", found.signature):
            raise TypeError(f"{found.name} writes to an argument, {_REFUSED['out']}")
        return found.name

    def _split(self, calls: list[Any]) -> list[list[Any]]:
        """One part for each worker, by its threads."""
        shares = [place.threads for place in self._placement.places.values()] or [1]
        total, taken, parts, share = sum(shares), 0, [], 0
        for threads in shares:
            share += threads
            end = len(calls) * share // total
            if end > taken:
                parts.append(calls[taken:end])
            taken = end
        return parts

    async def _run(self, call: Call) -> Any:
        return self._value(await self._direct(call))[0]

    async def _run_batches(self, calls: dict[int, Call], return_exceptions: bool) -> list[Any]:
        """Run parts of a batch, given by the number of their first call."""
        tasks = [asyncio.ensure_future(self._direct(call)) for call in calls.values()]
        try:
            await _wait_for_all(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            # Each ends when its worker is free; cancelled for a second time, at once.
            try:
                await _wait_for_all(tasks)
            except asyncio.CancelledError:
                for task in tasks:
                    task.cancel()
            for task in tasks:
                # Nobody else asks for it.
                if task.done() and not task.cancelled():
                    task.exception()
            raise
        results: list[Any] = []
        for (first, call), task in zip(calls.items(), tasks, strict=True):
            try:
                results += self._value(_count_from(task.result(), first))
            except (KernelLostError, TimeoutError) as error:
                results += [error] * len(call.arguments)
        if not return_exceptions:
            for number, result in enumerate(results):
                if isinstance(result, Exception):
                    result.add_note(f"call {number} of the batch")
                    raise result
        return results

    async def _run_scheduled(self, call: Call, retries: int) -> Any:
        self._running += 1
        try:
            with self._counting():
                async with _deadline(call):
                    reply = await self._await_reply(
                        await self._backend.call(call, None, retries), call, None
                    )
        finally:
            self._running -= 1
        return self._value(reply)[0]

    async def _direct(self, call: Call) -> Reply:
        with self._counting():
            return await self._send(call)

    async def _send(self, call: Call) -> Reply:
        """Send a call to a worker, as soon as one has space for it."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        place = await self._acquire(call, self._find_holders(call))
        if call.timeout is not None:
            left = max(0.0, call.timeout - (loop.time() - begin))
            call = dataclasses.replace(call, timeout=left)
        try:
            future = await self._backend.call(call, place.address)
        except BaseException:
            self._release(place)
            raise
        # A call that nobody waits for any more still occupies its worker.
        future.add_done_callback(lambda _: self._release(place))
        return await self._await_reply(future, call, place.address)

    async def _acquire(self, call: Call, holders: set[str]) -> Place:
        place = self._placement.try_acquire(holders)
        if place is None:
            async with _deadline(call):
                place = await self._placement.acquire(call.priority, holders)
        self._running += 1
        return place

    def _release(self, place: Place) -> None:
        self._running -= 1
        self._placement.release(place)

    async def _await_reply(
        self, future: asyncio.Future[Reply], call: Call, worker: str | None
    ) -> Reply:
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.done():
                self._backend.cancel(call, worker)
                await asyncio.wait([future])
            raise

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        """Count a call that has no reply."""
        try:
            yield
        except asyncio.CancelledError:
            self._counts["cancelled"] += 1
            raise
        except Exception as error:
            self._count_failure(error)
            raise

    def _count_failure(self, error: Exception) -> None:
        self._counts["lost" if isinstance(error, KernelLostError) else "failed"] += 1

    def _value(self, reply: Reply) -> list[Any]:
        if reply.cancelled:
            self._counts["cancelled"] += 1
            raise asyncio.CancelledError
        if reply.error is not None:
            self._count_failure(reply.error)
            raise reply.error
        self._counts["done"] += 1
        return list(reply.value)

    def _find_holders(self, call: Call) -> set[str]:
        holders: set[str] = set()
        for place, ref in call.refs.items():
            # A worker that was only cut off may come back with it.
            reachable = ref.holders & self._placement.places.keys()
            if not reachable:
                raise KernelLostError(
                    f"{call.kernel}: argument {place} was lost with its worker; put() it again. "
                    "The kernel did not run"
                )
            holders |= reachable
        return holders

    def _no_worker(self) -> Exception:
        if self._rejected:
            return KernelMismatchError(dict(self._rejected))
        return KernelLostError("the cluster has no worker; the kernel did not run")

    async def _follow(self) -> None:
        async for event in self._backend.events():
            if event.joined is None:
                self._rejected.pop(event.address, None)
                self._placement.remove(event.address)
                self._tables.remove(event.address)
                continue
            try:
                self._tables.check([event.joined])
            except KernelMismatchError as error:
                self._rejected.update(error.workers)
                try:
                    warnings.warn(f"not used: {error}", RuntimeWarning, stacklevel=1)
                except RuntimeWarning as warning:
                    # A filter made it an error, which must not end this task.
                    context = {"message": str(warning), "exception": warning}
                    asyncio.get_running_loop().call_exception_handler(context)
            else:
                self._use(event.joined)

    def _use(self, worker: WorkerInfo) -> None:
        limit = self._per_worker or _CALLS_PER_THREAD * worker.threads
        self._rejected.pop(worker.address, None)
        self._tables.add(worker.address, worker.kernels)
        self._placement.add(worker.address, worker.threads, limit)


async def _wait_for_all(tasks: list[asyncio.Task[Reply]]) -> None:
    if tasks:
        await asyncio.wait(tasks)


def _count_from(reply: Reply, first: int) -> Reply:
    """Number the call that was refused as in the whole batch."""
    if reply.error is not None and first:
        text = re.sub(r"\Acall (\d+):", lambda it: f"call {int(it[1]) + first}:", str(reply.error))
        reply.error.args = (text,)
    return reply


@contextlib.asynccontextmanager
async def _deadline(call: Call) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(call.timeout):
            yield
    except TimeoutError:
        raise TimeoutError(f"{call.kernel}: the timeout has passed") from None
