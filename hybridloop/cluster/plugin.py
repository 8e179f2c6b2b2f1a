"""The worker's side: a plugin of Dask's worker with one native engine."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker
from distributed.core import Status
from distributed.utils_comm import gather_from_workers

from .._core import NativeBatch, NativeEngine, NativeJob
from ..native.errors import KernelExistsError, KernelLibraryError
from ..native.registry import kernels, load_kernels
from . import values
from .errors import KernelLostError, encode_error
from .frames import Packed, with_frames

# A `distributed.comm.core.Comm`; its methods have no types.
Comm = Any

NAME = "hybridloop"
"""The name of the plugin, and of the operation that opens a connection to it."""

PROTOCOL = 1
"""Client and worker must have the same."""

# How many calls that were cancelled before they arrived are remembered.
_CANCELLED_EARLY = 4096
# Progress is sent at most once in so many seconds.
_PROGRESS_INTERVAL = 0.02
_CLOSE_TIMEOUT = 5.0
_DISPATCH_ITERATIONS = 3

_Key = tuple[str, int]


class KernelPlugin(WorkerPlugin):
    """Gives a worker of Dask a native engine, and the operation that runs kernels on it."""

    name = NAME
    idempotent = True
    server: KernelServer

    def setup(self, worker: Worker) -> None:
        self.server = KernelServer(worker)
        worker.handlers[NAME] = self.server.serve

    async def teardown(self, worker: Worker) -> None:
        worker.handlers.pop(NAME, None)
        await self.server.close()


class KernelServer:
    """Runs kernels for all clients of a worker. A client has two connections: data and control."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.engine = NativeEngine(native_threads=worker.state.nthreads)
        self._jobs: dict[_Key, NativeJob[Any] | NativeBatch[Any] | asyncio.Task[Any]] = {}
        self._cancelled: dict[_Key, None] = {}
        self._comms: set[Comm] = set()
        self._sessions: dict[str, Comm] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, comm: Comm, protocol: int, session: str) -> Status:
        """One connection of a client, until it is closed."""
        comm.allow_offload = False
        self._comms.add(comm)
        self._sessions[session] = comm
        started: set[_Key] = set()
        try:
            await comm.write({"protocol": PROTOCOL, "threads": self._worker.state.nthreads})
            while protocol == PROTOCOL:
                message = await comm.read()
                self._handle(comm, session, message, started)
        except OSError:
            pass
        finally:
            self._comms.discard(comm)
            if self._sessions.get(session) is comm:
                del self._sessions[session]
            # Nobody waits for them any more.
            for key in started & self._jobs.keys():
                self._jobs[key].cancel()
        return Status.dont_reply

    async def close(self) -> None:
        """End the connections and the engine."""
        for comm in list(self._comms):
            comm.abort()
        await asyncio.to_thread(self.engine.close, _CLOSE_TIMEOUT)

    def _handle(
        self, comm: Comm, session: str, message: dict[str, Any], started: set[_Key]
    ) -> None:
        match message["op"]:
            case "run":
                self._run(comm, (session, message["id"]), message, started)
            case "cancel":
                self.cancel((session, message["id"]))
            case "ping":
                self._send(comm, {"op": "pong", "engine": self._statistics()})
            case "kernels":
                self._send(comm, self._describe_kernels(message["libraries"]))

    def cancel(self, key: _Key) -> None:
        """Cancel a call, also one that has not arrived yet."""
        self._cancelled[key] = None
        if job := self._jobs.get(key):
            job.cancel()
        if len(self._cancelled) > _CANCELLED_EARLY:
            del self._cancelled[next(iter(self._cancelled))]

    def _forget(self, key: _Key) -> bool:
        """Whether a call was cancelled. It is asked once, when it begins or when it has ended."""
        return key in self._cancelled and self._cancelled.pop(key) is None

    def _send(self, comm: Comm, message: dict[str, Any]) -> asyncio.Task[None]:
        return self._start(self._write(comm, message))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @staticmethod
    async def _write(comm: Comm, message: dict[str, Any]) -> None:
        # A client that is gone needs no answer.
        with contextlib.suppress(OSError):
            await comm.write(message)

    def _run(self, comm: Comm, key: _Key, message: dict[str, Any], started: set[_Key]) -> None:
        if self._forget(key):
            self._send(comm, {"id": key[1], "cancelled": True})
            return
        data = self._worker.data
        progress = _Progress(self, comm, key[1]) if message["progress"] else None
        try:
            if all(name in data for name in message["refs"]):
                job: Any = self._submit(message, data, progress)
            else:
                job = asyncio.get_running_loop().create_task(self._fetch_and_run(message, progress))
        except Exception as error:
            self._send(comm, {"id": key[1], "error": encode_error(error)})
            return
        self._jobs[key] = job
        started.add(key)
        self._start(self._answer(comm, key, job, message["batch"], progress, started))

    async def _answer(
        self,
        comm: Comm,
        key: _Key,
        job: Any,
        batch: bool,
        progress: _Progress | None,
        started: set[_Key],
    ) -> None:
        content, frames = await self._outcome(key, job, batch)
        started.discard(key)
        if progress:
            await progress.finish()
        await self._write(comm, with_frames({"id": key[1], **content}, frames))

    async def _outcome(self, key: _Key, job: Any, batch: bool) -> tuple[dict[str, Any], list[Any]]:
        frames: list[Any] = []
        try:
            value = await job
            if batch:
                return {"values": [_encode_outcome(it, frames) for it in value]}, frames
            return {"values": values.encode([value], frames, "")}, frames
        except asyncio.CancelledError:
            # If the worker closes, the scheduler shall send the call to another one.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return {"cancelled": True}, []
        except Exception as error:
            return {"error": encode_error(error)}, []
        finally:
            self._jobs.pop(key, None)
            self._forget(key)

    async def _fetch_and_run(self, message: dict[str, Any], progress: _Progress | None) -> Any:
        # The worker does not keep it, for the scheduler would not know that, and never delete it.
        found, *_ = await gather_from_workers(
            message["refs"], self._worker.rpc, who=self._worker.address
        )
        if found.keys() != message["refs"].keys():
            raise KernelLostError("the data of an argument is lost; the kernel did not run")
        return await self._submit(message, found, progress)

    def _submit(
        self,
        message: Mapping[str, Any],
        stored: Mapping[Any, Any],
        progress: Callable[[int, int], None] | None,
    ) -> NativeJob[Any] | NativeBatch[Any]:
        frames = message.get("frames", ())
        options = {"timeout": message["timeout"], "priority": message["priority"]}
        kernel = message["kernel"]
        if message["batch"]:
            calls = [values.decode(parts, frames) for parts in message["arguments"]]
            return self.engine.run_native_many(kernel, calls, return_exceptions=True, **options)
        arguments = values.decode(
            [None if _is_ref(part) else part for part in message["arguments"]], frames
        )
        for place, part in enumerate(message["arguments"]):
            if _is_ref(part):
                arguments[place] = stored[part[1]].value
        return self.engine.run_native(kernel, *arguments, on_progress=progress, **options)

    async def run_task(self, call: Packed, stored: Mapping[str, Packed]) -> Packed:
        """A call that came through the scheduler."""
        message = {**call.content, "frames": call.frames}
        key = (message["session"], message["id"])
        if self._forget(key):
            return Packed({"cancelled": True}, [])
        progress = _Progress(self, self._sessions.get(message["session"]), key[1])
        try:
            _load_libraries(message["libraries"])
            job = self._submit(message, stored, progress if message["progress"] else None)
        except Exception as error:
            return Packed({"error": encode_error(error)}, [])
        self._jobs[key] = job
        content, frames = await self._outcome(key, job, message["batch"])
        # The result goes another way than what is sent, which could arrive later.
        if message["progress"]:
            await _dispatch_events()
        return Packed({**content, "progress": progress.end()}, frames)

    def _statistics(self) -> dict[str, int]:
        found = self.engine.stats()
        names = "threads", "running", "queued", "pending", "done", "failed", "cancelled", "memory"
        return {name: found[name] for name in names} if found else {}

    @staticmethod
    def _describe_kernels(libraries: list[str]) -> dict[str, Any]:
        failed = _load_libraries(libraries)
        return {
            "op": "kernels",
            "kernels": {kernel.name: (kernel.signature, kernel.doc) for kernel in kernels.values()},
            "required": [name for library in libraries for name in _loaded.get(library, ())],
            "failed": failed,
        }


class _Progress:
    """Sends the latest progress of a call, if there is a connection for it."""

    def __init__(self, server: KernelServer, comm: Comm | None, number: int) -> None:
        self._server = server
        self._comm = comm
        self._number = number
        self._latest: tuple[int, int] | None = None
        self._sent: tuple[int, int] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None

    def __call__(self, done: int, total: int) -> None:
        self._latest = (done, total)
        if self._timer is None and self._comm is not None:
            self._send_latest()

    def _send_latest(self) -> None:
        self._timer = None
        if self._latest != self._sent:
            self._sent = self._latest
            self._sending = self._server._send(self._comm, self._message())
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_PROGRESS_INTERVAL, self._send_latest)

    def _message(self) -> dict[str, Any]:
        return {"id": self._number, "progress": self._latest}

    def end(self) -> tuple[int, int] | None:
        """Send nothing more. Returns the last state."""
        if self._timer is not None:
            self._timer.cancel()
        return self._latest

    async def finish(self) -> None:
        """Send the last state, so that it arrives before the end."""
        await _dispatch_events()
        if self._sending is not None:
            await self._sending
        if self.end() != self._sent:
            await self._server._write(self._comm, self._message())


async def _dispatch_events() -> None:
    """Let the loop hear what a job has told before its end.

    A job that has ended before it is awaited is done at once, while the loop has yet to dispatch
    its progress. Loops of other implementations hear of that by a byte on a socket.
    """
    for _ in range(_DISPATCH_ITERATIONS):
        await asyncio.sleep(0)


def _is_ref(part: Any) -> bool:
    return type(part) is tuple and part[0] == "ref"


def _encode_outcome(value: Any, frames: list[Any]) -> Any:
    if isinstance(value, BaseException):
        return ("error", *encode_error(value))
    (part,) = values.encode([value], frames, "")
    return part


# The names of the kernels of each library that was loaded.
_loaded: dict[str, list[str]] = {}


def _load_libraries(libraries: list[str]) -> dict[str, str]:
    """Load what this process has not loaded yet. Returns what is wrong, by library."""
    failed = {}
    for library in libraries:
        if library not in _loaded:
            before = set(kernels)
            try:
                _load_library(library)
                _loaded[library] = sorted(set(kernels) - before)
            except Exception as error:
                failed[library] = f"{type(error).__name__}: {error}"
    return failed


def _load_library(library: str) -> None:
    # The program has loaded it before, perhaps as a module of its own.
    with contextlib.suppress(KernelExistsError):
        if os.sep in library or library.endswith((".so", ".dylib")):
            load_kernels(library)
            return
        module = importlib.import_module(library)
        # Others register their kernels when they are imported.
        with contextlib.suppress(KernelLibraryError):
            load_kernels(module)


async def run_task(call: Packed, *stored: Packed) -> Packed:
    """The function of all tasks that are sent through the scheduler."""
    plugin: Any = get_worker().plugins[NAME]
    names = call.content["refs"]
    packed: Packed = await plugin.server.run_task(call, dict(zip(names, stored, strict=True)))
    return packed
