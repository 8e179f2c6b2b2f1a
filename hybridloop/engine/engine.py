"""`Engine`: threads that run event loops, a scheduler for tasks, and a native engine."""

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
from .serving.server import BACKLOG, bind, detect_kind, dup_for_threads, make_server
from .stats import EngineStats, ThreadStats
from .task_handle import TaskHandle
from .work_mixin import WorkMixin

if TYPE_CHECKING:
    from types import TracebackType

    from ..loop.loop import Loop

_T = TypeVar("_T")

# close() cancels tasks when a quarter of its timeout is left, or this many seconds if that is less.
_CANCEL_TIME = 1.0

# Seconds that the exit of the process waits for an engine that was not closed.
_EXIT_TIME = 1.0

# The engines that were started.
_engines = Registry()


class Engine(WorkMixin):
    """Runs coroutines on several threads, each with an event loop.

    ::

        with hybridloop.Engine(gil_threads=2, tasks_per_thread=500) as engine:
            handle = engine.spawn(fetch("https://example.com"))
            page = handle.result()

    Args:
        gil_threads: the number of Python threads, each with a `hybridloop.Loop`.
        tasks_per_thread: the largest number of spawned tasks that one thread runs at a time.
        max_pending: the largest number of tasks that wait for a thread, in total.
        native_threads: the number of threads that run kernels; one per processor by default. They
            are started with the first job.
        native_queue: the order of queued jobs: `"fifo"`, `"lifo"` or `"priority"`. A higher
            priority runs first in each; `"priority"` is first in, first out within a priority.
        max_native_queue: the largest number of queued jobs; one more is a `NativeQueueFullError`.
        bus_capacity: the largest number of bytes on the memory bus, as an int or like `"256MiB"`.
        bus_policy: what to do when the bus is full: `"error"`, or `"evict"` the least recently
            used blocks.
        memory: the largest number of bytes of results and blocks, as an int or like `"256MiB"`;
            unlimited by default.
        job_memory: the largest number of bytes that one job may allocate, in the same way.
        job_items: the largest number of items that one job has emitted and nobody has taken.
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
        job_items: int | None = None,
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
            job_items=job_items,
        )
        self._scheduler = Scheduler(tasks_per_thread, max_pending, self._native)
        self._threads = self._scheduler.threads
        # Guards what follows. Never held while waiting.
        self._lock = threading.Lock()
        self._closed = False
        self._closing = False
        # close() has completed.
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
        """Start the threads, unless they run already. `EngineClosedError` after `close()`."""
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
        """Run a coroutine on one of the threads, or a generator like `hybridloop.generators` does.

        It runs on the least loaded thread, or on the thread with the number `thread`, in `context`
        or a copy of the caller's context. May be called in any thread.

        Raises `EngineFullError` if the queue is full; the coroutine was not touched then. Raises
        `EngineClosedError` unless the engine is open, `IndexError` if there is no such thread, and
        `TypeError` for anything but a coroutine or a generator.
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
        """Like `spawn()`, but wait while the queue is full instead of raising `EngineFullError`.

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
        """Accept connections on the threads of the engine, with one listening socket per thread.

        Args:
            app: a protocol factory as for `loop.create_server()`, or an ASGI application or its
                name (`"package.module:app"`), which is served by uvicorn.
            host: a host name or an address to listen on; all interfaces if `None`.
            port: the port; 0 for a free one, which `addresses` of the result contains.
            sock: a listening stream socket to be used instead. The threads share it, and the caller
                has to close it.
            kind: `"protocol"` or `"asgi"` if it cannot be detected from `app`.
            threads: the numbers of the threads to serve on; all by default.
            backlog: the backlog of the listening sockets.
            graceful_timeout: seconds that connections may stay open after `close()`; `None` for no
                limit.
            options: for `loop.create_server()`, such as `ssl`, or for `uvicorn.Config`.

        Returns when all threads accept connections. Raises `OSError` if the address cannot be
        bound, `RuntimeError` if the application does not start, `ImportError` without uvicorn, and
        `EngineClosedError` unless the engine is open. In a thread with a running loop use
        `aserve()`.
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
        """Like `serve()`, in a coroutine; also in tasks of the engine."""
        infos: Sequence[Any] = []
        if sock is None:
            infos = await asyncio.get_running_loop().getaddrinfo(**_lookup_arguments(host, port))
        server = self._begin_serving(
            app, infos, sock, kind, threads, backlog, graceful_timeout, options
        )
        await server._await_started()
        return server

    def stats(self) -> EngineStats:
        """A snapshot of the engine's counters, in any state of the engine and in any thread."""
        scheduler = self._scheduler
        # In a forked child no thread changes the counts, and the lock may be locked for ever.
        with nullcontext() if scheduler.belongs_to_parent() else scheduler.lock:
            spawned, pending = scheduler.spawned, scheduler.pending_count
            counts = [(thread, thread.load, len(thread.pinned)) for thread in scheduler.threads]
        slots = scheduler.tasks_per_thread
        threads = (
            ThreadStats(
                thread.thread.name,
                running,
                pinned,
                running / slots,
                thread.failed,
                thread.loop.stats(),
            )
            for thread, running, pinned in counts
        )
        native, bus = native_stats(self._native)
        return EngineStats(
            tuple(threads), slots, spawned, pending, scheduler.max_pending, native, bus
        )

    def _open_loops(self) -> list[Loop]:
        return [thread.loop for thread in self._threads if not thread.loop.is_closed()]

    def close(self, timeout: float | None = None, *, cancel: bool = False) -> list[str]:
        """Accept no more tasks, wait for all tasks, and end the threads.

        With a `timeout`, tasks are cancelled when a quarter of it is left, or one second if that is
        less; with `cancel` at once. Tasks that do not end in time are abandoned: their handles
        raise `EngineClosedError`, a `ResourceWarning` names them, and their names are returned.

        Raises `RuntimeError` in a thread of the engine. A call that was interrupted can be repeated
        to continue. It does nothing while another thread closes the engine, and after that.
        """
        self._check_not_own_thread("closed")
        if self._scheduler.belongs_to_parent():
            # The threads do not exist here, and may have left the locks locked.
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
                f"the engine was closed before all work had ended: {'; '.join(left)}",
                ResourceWarning,
                stacklevel=2,
            )
        return left

    async def aclose(self, timeout: float | None = None, *, cancel: bool = False) -> list[str]:
        """Like `close()`, in a coroutine."""
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
            raise ValueError("threads must not be empty")
        self._scheduler.check_threads(numbers)
        if sock is not None:
            sockets = dup_for_threads(sock, len(numbers))
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
        # Open connections may still spawn tasks.
        cancel = cancel or not scheduler.wait_for_servers(_time_left(cancel_at))
        scheduler.stop_accepting()
        cancel = cancel or not scheduler.wait_idle(_time_left(cancel_at))
        cancel = cancel or not scheduler.wait_native_idle(_time_left(cancel_at))
        if cancel:
            # The end of a job that a cancelled task waits for must not start the next job.
            self._native._stop_starting()
            scheduler.cancel_all_tasks()
            # Cancels queued jobs, which tasks may wait for.
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
    """The arguments for `getaddrinfo()` of an address to listen on."""
    if port is None:
        raise TypeError("serving needs a host and a port, or sock")
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
    """Close the engines that are still open at exit."""
    for _, engine in _engines.items():
        if not engine._shutdown_done and not engine._scheduler.belongs_to_parent():
            warnings.warn(f"unclosed {engine!r}", ResourceWarning, source=engine, stacklevel=1)
            engine.close(_EXIT_TIME, cancel=True)
