"""`Engine.serve()`: serves a protocol or an ASGI application on the threads of an engine."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import inspect
import logging
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, Literal

from ..task_handle import TaskHandle
from .services import ProtocolService, Service

if TYPE_CHECKING:
    from types import TracebackType

    from ..scheduler import Scheduler

_logger = logging.getLogger(__name__)

BACKLOG = 2048

# close() aborts connections when a quarter of its timeout is left, or this many seconds if that is
# less.
_ABORT_TIME = 1.0


def detect_kind(app: Any) -> Literal["protocol", "asgi"]:
    """Whether `app` is a protocol factory, called without arguments, or an ASGI application."""
    if isinstance(app, str):
        return "asgi"
    if isinstance(app, type) and issubclass(app, asyncio.BaseProtocol):
        return "protocol"
    if not callable(app):
        raise TypeError(f"a protocol factory or an ASGI application is expected, not {app!r}")
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        # A callable written in C, without a signature.
        pass
    else:
        for kind, count in (("protocol", 0), ("asgi", 3), ("asgi", 1)):
            try:
                signature.bind(*[None] * count)
            except TypeError:
                continue
            return kind  # type: ignore[return-value]
    raise TypeError(
        f"{app!r} takes the arguments of neither a protocol factory nor an ASGI application;"
        " use the argument kind"
    )


def bind(infos: Sequence[Any], count: int, backlog: int) -> list[list[socket.socket]]:
    """Make listening sockets for `count` threads; returns a list of sockets for each thread.

    On Linux each thread has its own socket for an address, and the kernel distributes connections
    over them. On other systems the threads share one.
    """
    reuse_port = count > 1 and sys.platform == "linux"
    sockets_by_thread: list[list[socket.socket]] = [[] for _ in range(count)]
    missing: OSError | None = None
    try:
        for family, _type, _proto, _name, address in dict.fromkeys(infos):
            try:
                first = _listen(address, family, backlog, reuse_port)
            except OSError as error:
                # A host name may have addresses of families that this machine does not support.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
                continue
            sockets_by_thread[0].append(first)
            for sockets in sockets_by_thread[1:]:
                if reuse_port:
                    sockets.append(_listen(first.getsockname(), family, backlog, True))
                else:
                    sockets.append(first.dup())
        if missing is not None and not sockets_by_thread[0]:
            raise missing
    except BaseException:
        _close(sockets_by_thread)
        raise
    return sockets_by_thread


def _listen(address: Any, family: int, backlog: int, reuse_port: bool) -> socket.socket:
    return socket.create_server(address, family=family, backlog=backlog, reuse_port=reuse_port)


def dup_for_threads(sock: socket.socket, count: int) -> list[list[socket.socket]]:
    """Like `bind()`, for an existing socket, which is duplicated."""
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"a stream socket is expected, not {sock!r}")
    sockets_by_thread: list[list[socket.socket]] = []
    try:
        for _ in range(count):
            sockets_by_thread.append([sock.dup()])
    except BaseException:
        _close(sockets_by_thread)
        raise
    return sockets_by_thread


def _close(sockets_by_thread: list[list[socket.socket]]) -> None:
    for sockets in sockets_by_thread:
        for sock in sockets:
            sock.close()


class EngineServer:
    """A server on the threads of an engine, returned by `Engine.serve()`.

    It is a context manager, which closes the server at the end.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        threads: Sequence[int],
        sockets: list[list[socket.socket]],
        make: Callable[[list[socket.socket]], Service],
    ) -> None:
        self._scheduler = scheduler
        self.addresses: tuple[Any, ...] = tuple(sock.getsockname() for sock in sockets[0])
        """The addresses it listens on, from `getsockname()`: (host, port) for IPv4."""
        self._services: list[Service] = []
        self._handles: list[TaskHandle[None]] = []
        self._threads = threads
        scheduler.server_stop_hooks.add(self._stop)
        try:
            self._services += map(make, sockets)
            for index, service in zip(threads, self._services, strict=True):
                self._start(index, service)
        except BaseException:
            self._abort()
            scheduler.server_stop_hooks.discard(self._stop)
            _close(sockets)
            raise

    def _start(self, index: int, service: Service) -> None:
        def ended(handle: TaskHandle[None]) -> None:
            error = handle._exception
            handle._retrieved = True
            task = handle._task
            if self._scheduler.threads[index].failed:
                service.close_sockets()
                service.disconnect()
            elif task is None or task.done():
                service.close_sockets()
                if service.is_serving() and isinstance(error, Exception):
                    _logger.error("%s has failed", handle.get_name(), exc_info=error)
            # Otherwise the task was abandoned, and its loop still uses the sockets.
            service.set_ended(error)
            if all(handle.done() for handle in self._handles):
                self._scheduler.server_stop_hooks.discard(self._stop)

        coroutine = _run(service)
        handle = TaskHandle(
            self._scheduler, coroutine, contextvars.copy_context(), f"server {self._name()}"
        )
        try:
            self._scheduler.schedule_service(handle, index)
        except BaseException:
            coroutine.close()
            raise
        self._handles.append(handle)
        handle.add_done_callback(ended)

    def __repr__(self) -> str:
        state = "closed" if all(handle.done() for handle in self._handles) else "serving"
        return f"<EngineServer {self._name()} on {len(self._services)} threads, {state}>"

    def _name(self) -> str:
        return ", ".join(
            f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
            for address in self.addresses
        )

    @property
    def connections(self) -> tuple[int, ...]:
        """The number of open connections on each thread."""
        return tuple(service.connections() for service in self._services)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server has ended, in a thread without a running loop.

        Returns `False` after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for handle in self._handles:
            try:
                handle._wait_blocking(_time_left(deadline))
            except TimeoutError:
                return False
        return True

    def close(self, timeout: float | None = None, *, cancel: bool = False) -> list[str]:
        """Accept no more connections, and wait until all connections have ended.

        Connections are closed after the `graceful_timeout` of `serve()`. With a `timeout`, they are
        aborted when a quarter of it is left, or one second if that is less; with `cancel` at once.
        Returns the names of threads on which the server has not ended. In a thread with a running
        loop use `aclose()`.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("close() would block the running loop; use 'await server.aclose()'")
        graceful, rest = _split_timeout(timeout)
        self._stop()
        if cancel or not self.wait(graceful):
            self._abort()
            self.wait(rest)
        return self._remaining_names()

    async def aclose(self, timeout: float | None = None, *, cancel: bool = False) -> list[str]:
        """Like `close()`, in a coroutine."""
        graceful, rest = _split_timeout(timeout)
        self._stop()
        if cancel or not await self._wait(graceful):
            self._abort()
            await self._wait(rest)
        return self._remaining_names()

    async def _wait(self, timeout: float | None) -> bool:
        waits = [asyncio.ensure_future(handle._wait()) for handle in self._handles]
        _, pending = await asyncio.wait(waits, timeout=timeout)
        for task in pending:
            task.cancel()
        return not pending

    def __enter__(self) -> EngineServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(cancel=error is not None)

    async def __aenter__(self) -> EngineServer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose(cancel=error is not None)

    def _wait_started(self) -> None:
        """Wait until all threads accept connections; if one fails, abort all and raise."""
        try:
            wait([service.started for service in self._services])
            for service in self._services:
                service.started.result()
        except BaseException:
            self._abort()
            raise

    async def _await_started(self) -> None:
        try:
            for service in self._services:
                await asyncio.wrap_future(service.started)
        except BaseException:
            self._abort()
            raise

    def _stop(self) -> None:
        for index, service in zip(self._threads, self._services, strict=True):
            self._scheduler.threads[index].call_threadsafe(service.stop)

    def _abort(self) -> None:
        for index, handle in zip(self._threads, self._handles, strict=False):
            self._scheduler.threads[index].call_threadsafe(
                handle._cancel_task, "the server is closing"
            )

    def _remaining_names(self) -> list[str]:
        return [
            self._scheduler.threads[index].thread.name
            for index, handle in zip(self._threads, self._handles, strict=True)
            if not handle.done()
        ]


async def _run(service: Service) -> None:
    try:
        await service.run()
    finally:
        service.close_sockets()


def _time_left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _split_timeout(timeout: float | None) -> tuple[float | None, float | None]:
    if timeout is None:
        return None, None
    rest = min(timeout / 4, _ABORT_TIME)
    return timeout - rest, rest


def make_server(
    scheduler: Scheduler,
    app: Any,
    sockets: list[list[socket.socket]],
    threads: Sequence[int],
    kind: Literal["protocol", "asgi"],
    graceful_timeout: float | None,
    options: dict[str, Any],
) -> EngineServer:
    """Start to serve on listening sockets."""

    def make(sockets: list[socket.socket]) -> Service:
        if kind == "protocol":
            return ProtocolService(app, sockets, graceful_timeout, options)
        from .asgi import AsgiService

        return AsgiService(app, sockets, graceful_timeout, options)

    return EngineServer(scheduler, threads, sockets, make)
