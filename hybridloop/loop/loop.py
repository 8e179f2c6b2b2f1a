"""`Loop`: the native core, combined with CPython's own event loop class."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import selectors
import socket
from asyncio import SendfileNotAvailableError, base_events

from .._core import StreamTransport
from . import datagrams, transports
from .native_mixin import NativeMixin
from .registry import Registry
from .signals import SignalMixin
from .subprocess import SubprocessMixin

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine
    from typing import Any, NoReturn, TypeVar

    from .stats import LoopStats
    from .transports import SocketTransport

    _T = TypeVar("_T")

_NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
_stdlib_getnameinfo = socket.getnameinfo

# Arguments of the overridden private methods of asyncio, on all supported Pythons.
_STREAM_OPTIONS = {"extra", "server", "context"}
_TLS_OPTIONS = {"server_side", "server_hostname", "ssl_handshake_timeout", "ssl_shutdown_timeout"}
# In this order after the backlog, where they are positional.
_SERVING_OPTIONS = ("ssl_handshake_timeout", "ssl_shutdown_timeout", "context")


_loops = Registry()

on_new_loop: list[Callable[[], object]] = []
"""Hooks of higher layers, called whenever a loop was made."""

if os.environ.get("HYBRIDLOOP_STRICT_ASYNCIO", "0") != "0":
    from . import compat

    compat.check()


_run_until_complete = asyncio.BaseEventLoop.run_until_complete


class _Nesting:
    """Running a loop within itself, which a higher layer can do."""

    load: Callable[[], object]
    """Imports that layer, which sets `find_runner`. `ImportError` if it lacks something."""

    find_runner: Callable[[Loop], Callable[[Loop, Any], Any] | None] | None = None
    """Returns what runs a future within a loop that is running, or `None` to refuse."""

    def runner(self, loop: Loop) -> Callable[[Loop, Any], Any] | None:
        if self.find_runner is None and hasattr(asyncio, "_nest_patched"):
            # By nest_asyncio.apply().
            with contextlib.suppress(ImportError):
                self.load()
        return None if self.find_runner is None else self.find_runner(loop)


nesting = _Nesting()


class _NativeSelector(selectors.BaseSelector):
    """`loop._selector`: a read-only view of the registrations. The core does the polling."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """The registration of a descriptor; `KeyError` if it is not registered."""
        watched = self._loop._watched(fileobj)
        if watched is None:
            raise KeyError(f"{fileobj!r} is not registered")
        registered, fd, reader, writer = watched
        events = (selectors.EVENT_READ if reader else 0) | (selectors.EVENT_WRITE if writer else 0)
        return selectors.SelectorKey(registered, fd, events, (reader, writer))

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        """The registrations of all descriptors, as a new dictionary."""
        found = {}
        for name in os.listdir("/dev/fd"):
            with contextlib.suppress(KeyError, ValueError, OSError):
                found[int(name)] = self.get_key(int(name))
        return found

    def register(self, fileobj: Any, events: int, data: Any = None) -> NoReturn:
        """Not supported: descriptors are registered with the loop."""
        raise NotImplementedError(_SELECTOR_REFUSAL.format("register()"))

    def unregister(self, fileobj: Any) -> NoReturn:
        """Not supported: descriptors are registered with the loop."""
        raise NotImplementedError(_SELECTOR_REFUSAL.format("unregister()"))

    def select(self, timeout: float | None = None) -> list[Any]:
        """Poll for the loop, which handles the events itself, and return no events.

        The loop calls this method only if it was replaced, which virtual clocks do.
        """
        self._loop._select(timeout)
        return []

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "select":
            self._loop._select_replaced = True

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name == "select":
            self._loop._select_replaced = False

    def close(self) -> None:
        """Do nothing: the core closes its selector."""


_SELECTOR_REFUSAL = (
    "the selector of a hybridloop.Loop does not support {}; "
    "use loop.add_reader(), loop.add_writer() and loop.run_forever()"
)


def _close_if_cancelled(create: Any) -> Any:
    """Make `create_server()` close the server if it is cancelled in its last await.

    asyncio leaves a listening server behind that nothing can close.
    """

    @functools.wraps(create)
    async def create_server(
        self: Loop, *args: Any, start_serving: bool = True, **kwargs: Any
    ) -> asyncio.Server:
        server = await create(self, *args, start_serving=False, **kwargs)
        if start_serving:
            try:
                server._start_serving()
                await asyncio.sleep(0)
            except BaseException:
                server.close()
                raise
        return server  # type: ignore[no-any-return]

    return create_server


class Loop(NativeMixin, SubprocessMixin, SignalMixin):
    """An asyncio event loop with native callbacks, timers, I/O and streams.

    Code that runs once per connection or less is inherited from CPython's asyncio. In addition to
    asyncio's methods there are `run_native()` and `run_native_many()` for native kernels, `bus` for
    memory shared with kernels, and `stats()`.
    """

    # The public path.
    __module__ = "hybridloop.loop"

    def __init__(self) -> None:
        self._native_engine = None
        self._stacks: Any = None
        super().__init__(_NativeSelector(self))
        _loops.add(self)
        for hook in on_new_loop:
            hook()

    # nest_asyncio may replace these and run_forever() in a base class of this one.
    _check_running = asyncio.BaseEventLoop._check_running  # type: ignore[attr-defined]

    def run_until_complete(self, future: Any) -> Any:
        """Run until the future, or a task for the coroutine, is done, and return its result."""
        if asyncio._get_running_loop() is self and (run := nesting.runner(self)) is not None:
            return run(self, future)
        return _run_until_complete(self, future)

    @property
    def _nest_patched(self) -> bool:
        """nest_asyncio reads this before it patches the class of a loop, which it leaves then."""
        try:
            nesting.load()
        except ImportError as error:
            raise ValueError(f"Can't patch loop of type {type(self)}: {error}") from error
        return True

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name != "_nest_patched"]

    def close(self) -> None:
        """Close the loop. Callbacks that have not run are discarded."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        before = self._lock_run("Cannot close a running event loop")
        try:
            if not self.is_closed():
                if self._stacks is not None:
                    self._stacks.close()
                self._close_pidfds()
                super().close()
                self._close_core()
        finally:
            self._unlock_run(before)

    @property
    def poll_skip_turns(self) -> int:
        """The former name of `poll_skip_iterations`."""
        return self.poll_skip_iterations

    @poll_skip_turns.setter
    def poll_skip_turns(self, iterations: int) -> None:
        self.poll_skip_iterations = iterations

    def stats(self) -> LoopStats:
        """A snapshot of the loop's counters. It is cheap, and works in any state of the loop."""
        from .stats import LoopStats

        return LoopStats(*self._stats())

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int = 0
    ) -> tuple[str, str]:
        """Like socket.getnameinfo(), without blocking the loop."""
        if (
            self._debug
            or type(flags) is not int
            or vars(base_events)["socket"] is not socket
            or socket.getnameinfo is not _stdlib_getnameinfo
        ):
            return await super().getnameinfo(sockaddr, flags)
        if flags & _NUMERIC == _NUMERIC:
            # Nothing is looked up, so no thread is needed.
            return socket.getnameinfo(sockaddr, flags)
        # Checks the arguments, and makes an address that can be passed to another thread.
        host, port = socket.getnameinfo(sockaddr, flags & ~socket.NI_NAMEREQD | _NUMERIC)
        rest: tuple[int, ...] = sockaddr[2:]
        flowinfo, scope_id, *_ = (*rest, 0, 0)
        names: tuple[str, str] = await self._getnameinfo(host, port, flowinfo, scope_id, flags)
        return names

    def _add_callback_signalsafe(self, handle: asyncio.Handle) -> None:
        self._add_callback(handle)
        self._write_to_self()

    create_server = _close_if_cancelled(asyncio.SelectorEventLoop.create_server)
    create_unix_server = _close_if_cancelled(asyncio.SelectorEventLoop.create_unix_server)
    create_unix_server.__doc__ = "Like `create_server()`, at the path of a Unix socket."

    # A later release of Python may add arguments to the private methods below. A call with an
    # unknown argument gets asyncio's own transport, which works on this loop as well.

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        **options: Any,
    ) -> asyncio.Transport:
        if not options.keys() <= _STREAM_OPTIONS or not transports.is_native(sock):
            return super()._make_socket_transport(sock, protocol, waiter, **options)
        self._ensure_fd_no_transport(sock)
        extra, server, context = map(options.get, ("extra", "server", "context"))
        transport: SocketTransport = self._new_stream_transport(
            sock, protocol, waiter, extra, server, context
        )
        return transport

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        **unknown: Any,
    ) -> asyncio.DatagramTransport:
        if unknown or not datagrams.is_native(sock):
            return super()._make_datagram_transport(
                sock, protocol, address, waiter, extra, **unknown
            )
        self._ensure_fd_no_transport(sock)
        return datagrams.make_transport(self, sock, protocol, address, waiter, extra)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        waiter: asyncio.Future[None] | None = None,
        **options: Any,
    ) -> asyncio.Transport:
        if not (options.keys() <= _STREAM_OPTIONS | _TLS_OPTIONS and transports.is_native(rawsock)):
            return super()._make_ssl_transport(rawsock, protocol, sslcontext, waiter, **options)
        # Python may have been built without ssl.
        from .tls import make_protocol

        tls_options = {name: options.pop(name) for name in _TLS_OPTIONS & options.keys()}
        ssl_protocol = make_protocol(self, protocol, sslcontext, waiter, **tls_options)
        self._make_socket_transport(rawsock, ssl_protocol, **options)
        return ssl_protocol._app_transport

    async def start_tls(
        self,
        transport: asyncio.BaseTransport,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        **options: Any,
    ) -> asyncio.Transport | None:
        """Upgrade a connection to TLS, and return the transport to use from now on."""
        upgrade = super().start_tls
        if isinstance(transport, StreamTransport):
            from .tls import start_tls

            upgrade = functools.partial(start_tls, self)
        return await upgrade(
            transport,
            protocol,
            sslcontext,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            **options,
        )

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: ssl.SSLContext | None = None,
        server: Any = None,
        backlog: int = 100,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        options = dict(zip(_SERVING_OPTIONS, args, strict=False)) | kwargs
        if sslcontext is not None or not options.keys() <= set(_SERVING_OPTIONS):
            super()._start_serving(
                protocol_factory, sock, sslcontext, server, backlog, *args, **kwargs
            )
        else:
            self._listen(protocol_factory, sock, server, backlog, options.get("context"))

    async def _sendfile_native(
        self, transp: SocketTransport, file: Any, offset: int, count: int | None
    ) -> int:
        reading = transp.is_reading()
        transp.pause_reading()
        drained = transp._make_empty_waiter()
        try:
            await drained
            if (sock := transp._sock) is None:
                raise ConnectionError(_CONNECTION_CLOSED)
            # Gets an exception if the transport is closed meanwhile.
            closed = transp._empty_waiter = self.create_future()
            try:
                # sock_sendfile() needs a descriptor that no transport has registered.
                own = sock.dup()
            except OSError as error:
                raise SendfileNotAvailableError("out of file descriptors") from error
            with own:
                closed.add_done_callback(functools.partial(_abort_sendfile, own))
                try:
                    sent: int = await self.sock_sendfile(own, file, offset, count, fallback=False)
                except (OSError, SendfileNotAvailableError):
                    if closed.done():
                        raise ConnectionError(_CONNECTION_CLOSED) from None
                    raise
                return sent
        finally:
            transp._reset_empty_waiter()
            if reading:
                transp.resume_reading()


def open_loops() -> list[tuple[int, Loop]]:
    """The loops that are not closed, with their numbers; in any thread."""
    return [(number, loop) for number, loop in _loops.items() if not loop.is_closed()]


_CONNECTION_CLOSED = "Connection is closed by peer"


def _abort_sendfile(sock: socket.socket, closed: asyncio.Future[None]) -> None:
    """Make `sock_sendfile()` fail, because the transport was closed."""
    closed.exception()
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def new_event_loop() -> Loop:
    """Make a `Loop`, for `asyncio.Runner(loop_factory=…)` or `uvicorn --loop …:new_event_loop`."""
    return Loop()


def run(main: Coroutine[Any, Any, _T], *, debug: bool | None = None) -> _T:
    """Run a coroutine on a new `Loop`, like `asyncio.run()`, and return its result."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("hybridloop.run() cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(main)
