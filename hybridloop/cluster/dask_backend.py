"""A cluster of Dask: scheduler and workers are Dask's, with a plugin in each worker."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from distributed import Client
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from . import values
from .backend import Call, ClusterRef, Reply, WorkerEvent, WorkerInfo
from .errors import KernelLostError
from .frames import Packed, with_frames
from .link import Link, decode_reply
from .plugin import KernelPlugin, run_task
from .security import check_address

# How often the scheduler is asked for its workers, in seconds.
_WATCH_INTERVAL = 0.5


class _Progress:
    """Calls an `on_progress` function, not twice with the same state."""

    def __init__(self, on_progress: Callable[[int, int], object]) -> None:
        self._on_progress = on_progress
        self._shown: tuple[int, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._shown != (done, total):
            self._shown = (done, total)
            # What it raises goes to the loop's exception handler.
            asyncio.get_running_loop().call_soon(self._on_progress, done, total)


class DaskBackend:
    """The five operations of a cluster, on the scheduler and the workers of Dask."""

    def __init__(
        self, address_or_client: Any, security: Any, trusted: bool, ping: float | None
    ) -> None:
        self._address = None if isinstance(address_or_client, Client) else address_or_client
        # A `distributed.Client`; most of its methods have no types.
        self._client: Any = None if self._address is not None else address_or_client
        self._security = security
        self._trusted = trusted
        self._ping = ping
        self._libraries: list[str] = []
        self._session = uuid.uuid4().hex
        # Workers that the scheduler knows, and those for which a task keeps a connection.
        self._known: set[str] = set()
        self._kept: set[str] = set()
        self._links: dict[str, Link] = {}
        self._on_progress: dict[int, Any] = {}
        self._scheduled: dict[int, Any] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._events: asyncio.Queue[WorkerEvent] = asyncio.Queue()

    async def start(self, libraries: Sequence[str]) -> None:
        self._libraries = list(libraries)
        if self._client is None:
            if isinstance(self._address, str):
                check_address(self._address, self._trusted, self._security is not None)
            self._client = await Client(  # type: ignore[no-untyped-call]
                self._address, asynchronous=True, security=self._security, set_as_default=False
            )
        elif self._client.loop.asyncio_loop is not asyncio.get_running_loop():
            raise ValueError("the Client must be made in this loop, with asynchronous=True")
        check_address(self._client.scheduler.address, self._trusted)
        # A worker that cannot take the plugin is found below, and named.
        with contextlib.suppress(Exception):
            await self._client.register_plugin(KernelPlugin())
        known = await self._client.scheduler.ncores()
        for address in known:
            check_address(address, self._trusted)
        # A worker that does not answer is tried again later.
        self._known = set(known)
        await asyncio.gather(*map(self._keep, known))
        # Those that are connected are the first of `workers()`.
        while not self._events.empty():
            self._events.get_nowait()
        self._start(self._watch())

    async def close(self) -> None:
        self._known.clear()
        for link in list(self._links.values()):
            link.close("the cluster was closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._address is not None and self._client is not None:
            await self._client.close()

    def workers(self) -> list[WorkerInfo]:
        return [link.info for link in list(self._links.values())]

    async def call(self, call: Call, worker: str | None, retries: int = 0) -> asyncio.Future[Reply]:
        if call.on_progress:
            self._on_progress[call.id] = _Progress(call.on_progress)
        message = self._message(call)
        if worker is None:
            task = self._start(self._schedule(call, message, retries))
            task.add_done_callback(lambda _: self._on_progress.pop(call.id, None))
            return task
        message["refs"] = {ref.handle.key: sorted(ref.holders) for ref in call.refs.values()}
        if link := self._links.get(worker):
            reply = await link.call(with_frames(message, call.frames))
        else:
            reply = asyncio.get_running_loop().create_future()
            error = KernelLostError(f"worker {worker} was lost, the kernel did not run")
            reply.set_result(Reply(error=error))
        reply.add_done_callback(lambda _: self._on_progress.pop(call.id, None))
        return reply

    def cancel(self, call: Call, worker: str | None) -> None:
        if worker is None:
            # First the scheduler, so that no other worker gets the call.
            if future := self._scheduled.get(call.id):
                self._start(self._cancel_scheduled(future))
            for link in self._links.values():
                link.cancel(call.id)
        elif found := self._links.get(worker):
            found.cancel(call.id)

    async def _cancel_scheduled(self, future: Any) -> None:
        # A scheduler that is away has lost the call.
        with contextlib.suppress(OSError):
            await self._client.cancel([future], force=True)

    async def put(self, value: Any, worker: str) -> ClusterRef:
        frames: list[Any] = []
        (content,) = values.encode([value], frames, "put")
        packed = Packed(content, frames)
        try:
            handle = await self._client.scatter(packed, workers=[worker], direct=True, hash=False)
        except OSError as error:
            raise KernelLostError(
                f"worker {worker} was lost, it may have the value: {error}"
            ) from error
        return ClusterRef(handle, packed.nbytes, {worker})

    async def events(self) -> AsyncIterator[WorkerEvent]:
        while True:
            yield await self._events.get()

    def _message(self, call: Call) -> dict[str, Any]:
        arguments = list(call.arguments)
        for place, ref in call.refs.items():
            arguments[place] = ("ref", ref.handle.key)
        return {
            "id": call.id,
            "kernel": call.kernel,
            "arguments": arguments,
            "batch": call.batch,
            "timeout": call.timeout,
            "priority": call.priority,
            "progress": call.on_progress is not None,
        }

    async def _schedule(self, call: Call, message: dict[str, Any], retries: int) -> Reply:
        handles = {ref.handle.key: ref.handle for ref in call.refs.values()}
        content = {
            **message,
            "refs": list(handles),
            "session": self._session,
            "libraries": self._libraries,
        }
        packed = Packed(content, call.frames)
        lost: BaseException | None = None
        for attempt in range(retries + 1):
            future = self._scheduled[call.id] = self._client.submit(
                run_task,
                packed,
                *handles.values(),
                key=f"hybridloop-{self._session}-{call.id}-{attempt}",
                retries=retries,
                priority=call.priority,
                pure=False,
            )
            try:
                # Not through the scheduler.
                done = await self._client.gather(future, direct=True)
            except KilledWorker as error:
                lost = error
            except FutureCancelledError as error:
                if any(ref.handle.status != "finished" for ref in call.refs.values()):
                    return Reply(error=KernelLostError(f"the data of an argument is lost: {error}"))
                return Reply(cancelled=True)
            except Exception as error:
                return Reply(error=error)
            else:
                # What was sent before may arrive later, and is old then.
                on_progress = self._on_progress.pop(call.id, None)
                if on_progress and done.content.get("progress"):
                    on_progress(*done.content["progress"])
                return decode_reply(done.content, done.frames)
            finally:
                del self._scheduled[call.id]
                future.release()
        return Reply(error=KernelLostError(f"the kernel may have run: {lost}"))

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            # A scheduler that is away may come back.
            with contextlib.suppress(OSError):
                self._known = set(await self._client.scheduler.ncores())
                for address in self._known - self._kept:
                    self._keep(address)

    def _keep(self, address: str) -> asyncio.Future[None]:
        """Connect to a worker, as long as the scheduler knows it. Done after the first attempt."""
        tried: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._kept.add(address)
        task = self._start(self._keep_connected(address, tried))
        task.add_done_callback(lambda _: self._kept.discard(address))
        return tried

    async def _keep_connected(self, address: str, tried: asyncio.Future[None]) -> None:
        try:
            check_address(address, self._trusted)
        except PermissionError as error:
            info = WorkerInfo(address, 1, {}, problem=str(error))
            self._events.put_nowait(WorkerEvent(address, info))
            # It stays in self._kept, so that it is told once.
            while address in self._known:
                await asyncio.sleep(_WATCH_INTERVAL)
        while address in self._known:
            options = self._client.connection_args
            link = Link(address, self._session, options, self._on_progress)
            try:
                info = await link.open(self._libraries, self._ping)
                self._links[address] = link
                self._events.put_nowait(WorkerEvent(address, info))
                if not tried.done():
                    tried.set_result(None)
                reason = await asyncio.shield(link.lost)
                self._events.put_nowait(WorkerEvent(address, None, reason))
            except OSError:
                # It is tried again, unless the scheduler has lost it, too.
                pass
            finally:
                self._links.pop(address, None)
                link.close("the connection was closed")
                if not tried.done():
                    tried.set_result(None)
            await asyncio.sleep(_WATCH_INTERVAL)
