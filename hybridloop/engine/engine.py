"""`Engine`."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import socket
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .._core import NativeEngine
from ..loop.registry import Registry
from ..native.config import parse_size
from ..native.stats import native_stats
from .errors import EngineClosedError, EngineFullError
from .scheduler import Scheduler
from .serving import EngineServer
from .serving.server import BACKLOG, bind, detect_kind, make_server, share
from .stats import EngineStats, ThreadStats
from .task_handle import TaskHandle
from .work_mixin import WorkMixin

if TYPE_CHECKING:
    from types import TracebackType

    from ..loop.loop import Loop

_T = TypeVar("_T")

# Of the time that close() has, the last quarter and at most this many seconds are for tasks to end
# after they were cancelled.
_CANCEL_TIME = 1.0

# How long the end of the process waits for an engine that nobody has closed.
_EXIT_TIME = 1.0

# Those that were started.
_engines: Registry[Engine] = Registry()


class Engine(WorkMixin):
    """Several threads with a loop each, and one place to hand them coroutines.

    ::

        with hybridloop.Engine(gil_threads=2, tasks_per_thread=500) as engine:
            handle = engine.spawn(fetch("https://example.com"))
            page = handle.result()

    Args:
        gil_threads: Python threads, each with a `hybridloop.Loop`.
        tasks_per_thread: how many spawned tasks one thread runs at the same time.
        max_pending: how many more may wait for a place, in all.
        native_threads: threads that run kernels; as many as there are processors by default. They
            start with the first job.
        native_queue: the order of jobs that wait: `"fifo"`, `"lifo"`, or `"priority"`, in which
            those of one priority are first in, first out. Higher priorities come first in all.
        max_native_queue: how many jobs may wait before `NativeQueueFullError`.
        bus_capacity: bytes on the memory bus, as a number or like `"256MiB"`.
        bus_policy: what happens when the bus is full: `"error"`, or `"evict"` what was not read
            for the longest time.
        memory: bytes that results and blocks of the bus may have together, alike; no limit by
            default.
        job_memory: bytes that one job may allocate, alike.
    """

    def __init__(
        self,
        gil_threads: int = 1,
        tasks_per_thread: int = 1000,
        native_threads: int | None = None,
        native_queue: str = "fifo",
        bus_capacity: int | str | None = "256MiB",
        bus_policy: str = "error",
        *,
        max_pending: int = 100_000,
        max_native_queue: int | None = None,
        memory: int | str | None = None,
        job_memory: int | str | None = None,
    ) -> None:
        for name, value, least in (
            ("gil_threads", gil_threads, 1),
            ("tasks_per_thread", tasks_per_thread, 1),
            ("max_pending", max_pending, 0),
            ("native_threads", native_threads, 1),
            ("max_native_queue", max_native_queue, 1),
        ):
            if value is None and name in ("native_threads", "max_native_queue"):
                continue
            if not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        self._gil_threads = gil_threads
        self._native = NativeEngine(
            native_threads=native_threads,
            native_queue=native_queue,
            max_native_queue=max_native_queue,
            bus_capacity=parse_size("bus_capacity", bus_capacity),
            bus_policy=bus_policy,
            memory=parse_size("memory", memory),
            job_memory=parse_size("job_memory", job_memory),
        )
        self._scheduler = Scheduler(tasks_per_thread, max_pending, self._native)
        self._threads = self._scheduler.threads
        # Guards what follows; not held while anything is waited for.
        self._lock = threading.Lock()
        self._closed = False
        self._closing = False
        # close() has come to its end.
        self._shutdown_done = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._scheduler.open else "not started"
        return f"<Engine gil_threads={self._gil_threads} {state}>"

    def __del__(self) -> None:
        scheduler = getattr(self, "_scheduler", None)
        if scheduler is not None and scheduler.open and not scheduler.belongs_to_parent():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            scheduler.abandon()

    def start(self) -> Engine:
        """Start the threads; does nothing if they run. `EngineClosedError` after `close()`."""
        with self._lock:
            if self._closed:
                raise EngineClosedError("the engine is closed; make a new one")
            if not self._scheduler.open:
                self._scheduler.start(self._gil_threads)
                _engines.add(self)
        return self

    setup = start

    def spawn(
        self,
        coro: Coroutine[Any, Any, _T] | Generator[Any, Any, _T],
        *,
        thread: int | None = None,
        context: contextvars.Context | None = None,
        name: str | None = None,
    ) -> TaskHandle[_T]:
        """Run a coroutine, or a generator as `hybridloop.generators` does, on one of the threads.

        It goes to the thread with the least to do, or to number `thread`, and stays there. It runs
        in `context`, or a copy of the caller's. May be called in any thread.

        Raises `EngineFullError` if there is neither a place nor room to wait for one; the coroutine
        is untouched then. `EngineClosedError` unless the engine is open, `IndexError` for a thread
        that there is not, `TypeError` for anything but a coroutine or generator.
        """
        if context is None:
            context = contextvars.copy_context()
        handle = TaskHandle(self._scheduler, coro, context, name)
        self._scheduler.schedule(handle, thread)
        return handle

    async def spawn_wait(
        self,
        coro: Coroutine[Any, Any, _T] | Generator[Any, Any, _T],
        *,
        thread: int | None = None,
        context: contextvars.Context | None = None,
        name: str | None = None,
    ) -> TaskHandle[_T]:
        """As `spawn()`, but wait for room instead of raising `EngineFullError`.

        If the wait is cancelled, the coroutine is closed.
        """
        while True:
            try:
                return self.spawn(coro, thread=thread, context=context, name=name)
            except EngineFullError:
                pass
            try:
                await self._scheduler.wait_for_space()
            except asyncio.CancelledError:
                coro.close()
                raise

    def serve(
        self,
        app: Callable[..., Any] | str,
        host: str | None = None,
        port: int | None = None,
        *,
        sock: socket.socket | None = None,
        kind: Literal["auto", "protocol", "asgi"] = "auto",
        threads: Sequence[int] | None = None,
        backlog: int = BACKLOG,
        graceful_timeout: float | None = 30.0,
        **options: Any,
    ) -> EngineServer:
        """Accept connections on the threads of the engine, each with a listener of its own.

        Args:
            app: a protocol factory as for `loop.create_server()`, or an ASGI application, or the
                name of one (`"package.module:app"`), which uvicorn serves.
            host: a name or an address to listen on; every interface for `None`.
            port: 0 for a free one, which `addresses` of the result tells.
            sock: a listening stream socket instead, which the threads share; it stays the caller's.
            kind: `"protocol"` or `"asgi"` where `app` does not show what it is.
            threads: the numbers of the threads to serve on; all by default.
            backlog: connections that the system keeps until they are accepted.
            graceful_timeout: seconds that open connections have at the end, to end by themselves;
                `None` for as long as they take.
            options: for `loop.create_server()`, such as `ssl`, or for `uvicorn.Config`.

        Returns when connections are accepted on every thread. Raises `OSError` if the address
        cannot be had, `RuntimeError` if the application does not start, `ImportError` without
        uvicorn, `EngineClosedError` unless the engine is open. Not for a thread with a running
        loop, which it would block; there use `aserve()`.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("serve() would block the running loop; use 'await engine.aserve()'")
        infos = [] if sock is not None else socket.getaddrinfo(**_lookup_arguments(host, port))
        server = self._begin_serving(
            app, infos, sock, kind, threads, backlog, graceful_timeout, options
        )
        server._wait_started()
        return server

    async def aserve(
        self,
        app: Callable[..., Any] | str,
        host: str | None = None,
        port: int | None = None,
        *,
        sock: socket.socket | None = None,
        kind: Literal["auto", "protocol", "asgi"] = "auto",
        threads: Sequence[int] | None = None,
        backlog: int = BACKLOG,
        graceful_timeout: float | None = 30.0,
        **options: Any,
    ) -> EngineServer:
        """As `serve()`, without blocking the running loop, in tasks of the engine as well."""
        infos: Sequence[Any] = []
        if sock is None:
            infos = await asyncio.get_running_loop().getaddrinfo(**_lookup_arguments(host, port))
        server = self._begin_serving(
            app, infos, sock, kind, threads, backlog, graceful_timeout, options
        )
        await server._await_started()
        return server

    def stats(self) -> EngineStats:
        """What runs on each thread, what waits, and what the loops have done. Works in any state,
        in any thread.
        """
        scheduler = self._scheduler
        # In a forked child nobody changes the counts, and nobody may ever release the lock.
        with nullcontext() if scheduler.belongs_to_parent() else scheduler.lock:
            spawned, pending = scheduler.spawned, scheduler.pending_count
            counts = [(thread, thread.load, len(thread.pinned)) for thread in scheduler.threads]
        places = scheduler.tasks_per_thread
        threads = (
            ThreadStats(
                thread.thread.name,
                running,
                pinned,
                running / places,
                thread.failed,
                thread.loop.stats(),
            )
            for thread, running, pinned in counts
        )
        native, bus = native_stats(self._native)
        return EngineStats(
            tuple(threads), places, spawned, pending, scheduler.max_pending, native, bus
        )

    def _open_loops(self) -> list[Loop]:
        return [thread.loop for thread in self._threads if not thread.loop.is_closed()]

    def close(self, timeout: float | None = None, *, cancel: bool = False) -> list[str]:
        """Take no more tasks, wait for those there are, and end the threads.

        After `timeout` seconds, or at once with `cancel`, tasks that have not ended are cancelled;
        the last quarter of the time, at most a second, is theirs to end in. What is still there
        when the time is over is left to itself, its handle gets `EngineClosedError`, and a
        `ResourceWarning` names it, as does the list returned. `RuntimeError` in a thread of the
        engine. One that was interrupted goes on when it is called again; while another thread
        closes the engine, and after that, nothing is done.
        """
        self._check_not_own_thread("closed")
        if self._scheduler.belongs_to_parent():
            # The threads are the parent's, and so may be the owners of the locks.
            self._closed = True
            return []
        with self._lock:
            if self._shutdown_done or self._closing:
                return []
            self._closed = self._closing = True
        try:
            left = self._shutdown(timeout, cancel)
            self._shutdown_done = True
        finally:
            self._closing = False
        if left:
            warnings.warn(
                f"the engine was closed with work left: {'; '.join(left)}",
                ResourceWarning,
                stacklevel=2,
            )
        return left

    async def aclose(self, timeout: float | None = None, *, cancel: bool = False) -> list[str]:
        """As `close()`, without blocking the running loop."""
        self._check_not_own_thread("closed")
        return await asyncio.to_thread(self.close, timeout, cancel=cancel)

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(cancel=error is not None)

    async def __aenter__(self) -> Engine:
        return self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose(cancel=error is not None)

    def _begin_serving(
        self,
        app: Any,
        infos: Sequence[Any],
        sock: socket.socket | None,
        kind: Literal["auto", "protocol", "asgi"],
        threads: Sequence[int] | None,
        backlog: int,
        graceful_timeout: float | None,
        options: dict[str, Any],
    ) -> EngineServer:
        if kind == "auto":
            kind = detect_kind(app)
        elif kind not in ("protocol", "asgi"):
            raise ValueError(f"kind must be 'auto', 'protocol' or 'asgi', not {kind!r}")
        if self._closed:
            raise EngineClosedError("the engine is closed; make a new one")
        numbers = range(self._gil_threads) if threads is None else sorted(set(threads))
        if not numbers:
            raise ValueError("threads must name a thread at least")
        self._scheduler.check_threads(numbers)
        if sock is not None:
            sockets = share(sock, len(numbers))
        else:
            sockets = bind(infos, len(numbers), backlog)
        options["backlog"] = backlog
        return make_server(self._scheduler, app, sockets, numbers, kind, graceful_timeout, options)

    def _shutdown(self, timeout: float | None, cancel: bool) -> list[str]:
        deadline = cancel_at = None
        if timeout is not None:
            deadline = time.monotonic() + timeout
            cancel_at = deadline - min(timeout / 4, _CANCEL_TIME)
        scheduler = self._scheduler
        scheduler.stop_serving()
        # What comes over connections that are still there may spawn tasks.
        cancel = cancel or not scheduler.wait_served(_time_left(cancel_at))
        scheduler.stop_accepting()
        cancel = cancel or not scheduler.wait_idle(_time_left(cancel_at))
        cancel = cancel or not scheduler.wait_native_idle(_time_left(cancel_at))
        if cancel:
            scheduler.cancel_pending_and_running()
            # Jobs that wait never run, and tasks may be waiting for them.
            self._native.close(0)
            scheduler.wait_idle(_time_left(deadline))
        scheduler.stop()
        for thread in self._threads:
            thread.thread.join(_time_left(deadline))
        left = scheduler.fail_remaining()
        return left + [f"kernel {name}" for name in scheduler.close_native(_time_left(deadline))]

    def _check_not_own_thread(self, what: str) -> None:
        if any(thread.thread is threading.current_thread() for thread in self._threads):
            raise RuntimeError(f"an engine cannot be {what} by one of its own threads")


def _lookup_arguments(host: str | None, port: int | None) -> dict[str, Any]:
    """The arguments for `getaddrinfo()`."""
    if port is None:
        raise TypeError("a host and a port, or sock, are needed to serve")
    return {
        "host": host or None,
        "port": port,
        "type": socket.SOCK_STREAM,
        "flags": socket.AI_PASSIVE,
    }


def _time_left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def open_engines() -> list[tuple[int, Engine]]:
    """The engines that have a loop which is not closed, with their numbers; in any thread."""
    return [(number, engine) for number, engine in _engines.items() if engine._open_loops()]


@atexit.register
def _close_at_exit() -> None:
    """End the engines that nobody has closed, while Python still runs."""
    for _, engine in _engines.items():
        if not engine._shutdown_done and not engine._scheduler.belongs_to_parent():
            warnings.warn(f"unclosed {engine!r}", ResourceWarning, source=engine, stacklevel=1)
            engine.close(_EXIT_TIME, cancel=True)
