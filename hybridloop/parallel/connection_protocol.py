"""The asyncio protocol of a connection: calls the user's callbacks, and sends what they return."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, cast

from . import activity
from .file_transfer import FileTransferMixin
from .protocol import Callbacks
from .runtime import get_runtime
from .threads import thread_seq_id
from .transport import Connection, IoOp, ResponseEncoder, to_bytes

# How many steps a connection does before other callbacks of the loop run.
_MAX_STEPS = 64
# How many bytes are received while the result of a callback is being sent.
_MAX_INPUT = 65536

# Seconds that the peer has to close the connection after this side.
_LINGER_TIMEOUT = 1.0
# Common types of results that are not awaitable.
_NOT_AWAITABLE = (type(None), bytes, str, bytearray, dict, list)


_logger = logging.getLogger("hybridloop.parallel")


def call_threadsafe(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Have a loop call a function, unless the loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function)


class ConnectionOwner:
    """The interface of a server or a client for its connections."""

    protocol_class: Any = None
    callbacks: Callbacks
    sock_timeout: float

    def make_http_connection(self, conn: ConnectionProtocol) -> Any:
        """Make the HTTP state of a connection whose protocol has `http11 = True`."""
        raise NotImplementedError

    def opened(self, conn: ConnectionProtocol) -> None:
        """A connection was made."""

    def closing(self, conn: ConnectionProtocol) -> None:
        """A connection is closed once everything is sent."""

    def closed(self, conn: ConnectionProtocol) -> None:
        """A connection has ended."""


class ConnectionProtocol(FileTransferMixin, asyncio.Protocol):
    """One connection.

    Callbacks run one after the other: while the result of one is being sent, no other is called.
    """

    def __init__(self, owner: ConnectionOwner, connection: Connection) -> None:
        self.owner = owner
        self.connection = connection
        self.callbacks = owner.callbacks
        self.http: Any = None
        self.loop = asyncio.get_running_loop()
        self.runtime = get_runtime()
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.protocol: Any = None
        self.input = b""
        self.position = 0
        self.eof = False
        self.closing = False
        self.skip_linger = False
        self.linger: asyncio.TimerHandle | None = None
        self.lost = False
        self.broken: ConnectionError | None = None
        self.advancing = False
        # There is more to do, after other callbacks of the loop.
        self.has_more_steps = False
        self.greeting_step = 0
        # What is being sent, and then what data_sent() is to be called with.
        self.unsent: bytes | None = None
        self.sent: bytes | None = None
        self.busy = False
        self.writing_paused = False
        self.reading_paused = False
        self.drained: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.hog = False
        self.op = IoOp.ACCEPT if connection.parent is not None else IoOp.CONNECT
        self.timer: asyncio.TimerHandle | None = None
        self.last_activity = 0.0

    # Methods that the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)
        # pause_writing() as soon as anything is buffered, resume_writing() when nothing is.
        transport.set_write_buffer_limits(high=0)
        connection = self.connection
        connection._wake = self.wake
        sock = transport.get_extra_info("socket")
        connection.peer = peer = transport.get_extra_info("peername")
        if connection.parent is not None and isinstance(peer, tuple):
            connection.host = connection.ip = peer[0]
            connection.port = peer[1]
        connection.sock_family = int(sock.family)
        connection.sock_proto = int(sock.proto)
        connection.sock_timeout = self.owner.sock_timeout
        connection.recvbuf_size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        connection.sendbuf_size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        connection.last_thread_id = connection.this_thread_id = threading.get_ident()
        connection.thread_seq_id_bitmap = 1 << ((thread_seq_id() or 1) - 1)
        self.owner.opened(self)
        try:
            protocol = self.owner.protocol_class()
            self.callbacks = Callbacks(protocol)
        except BaseException as error:
            self.runtime.notify(error)
            transport.abort()
            return
        connection.protocol = self.protocol = protocol
        if self.callbacks.http11 and connection.parent is not None:
            self.http = self.owner.make_http_connection(self)
        if connection.sock_timeout:
            self.last_activity = self.loop.time()
            self.timer = self.loop.call_later(connection.sock_timeout, self.check_activity)
        self.advance()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        connection = self.connection
        connection._begin = time.perf_counter_ns()
        connection.recv_id += 1
        connection.num_bytes_just_received = len(data)
        connection.total_bytes_received += len(data)
        self.op = IoOp.RECV
        if self.timer is not None:
            self.last_activity = self.loop.time()
        if self.http is not None:
            self.http.feed(data)
        else:
            self.input = self.input[self.position :] + data if self.input else data
            self.position = 0
        if not self.busy:
            self.advance()
        if (self.busy or self.has_more_steps) and not (self.reading_paused or self.lost):
            waiting = len(self.input) - self.position if self.http is None else len(self.http.input)
            if waiting > _MAX_INPUT and not self.transport.is_closing():
                self.reading_paused = True
                self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.eof = True
        if self.closing:
            self.transport.close()
            return True
        self.op = IoOp.DISCONNECT
        self.advance()
        # The connection stays half open: advance() closes it when everything is sent.
        return True

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self.timer is not None:
            self.last_activity = self.loop.time()
        if self.drained is not None:
            if not self.drained.done():
                self.drained.set_result(None)
        elif self.unsent is not None:
            self.finish_send(self.unsent)
            self.advance()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        for timer in (self.timer, self.linger):
            if timer is not None:
                timer.cancel()
        if self.drained is not None and not self.drained.done():
            self.drained.set_exception(ConnectionResetError("the connection is lost"))
        if self.task is not None:
            self.task.cancel()
        if self.hog:
            activity.count_hogs(-1)
        # Drop what the last callback has scheduled.
        file, _ = self.connection._take_scheduled()
        if file is not None:
            file.file.close()
        if self.protocol is not None:
            if self.unsent is not None:
                self.op = IoOp.SEND
                self.call_and_discard("send_failed", self.connection, self.unsent)
            self.report_loss(error or self.broken)
        self.owner.closed(self)
        self.connection._wake = None

    def report_loss(self, error: Exception | None) -> None:
        if error is None:
            self.call_and_discard("connection_closed", self.connection, self.op)
        elif isinstance(error, TimeoutError):
            self.call_and_discard("connection_timeout", self.connection, self.op)
        elif isinstance(error, ConnectionError):
            self.call_and_discard("connection_lost", self.connection, self.op)
        elif self.callbacks.get("connection_error") is not None:
            errno = error.errno if isinstance(error, OSError) else None
            self.call_and_discard(
                "connection_error", self.connection, self.op, self.op.name.lower(), errno
            )
        elif self.connection.parent is None:
            self.runtime.notify(error)

    def check_activity(self) -> None:
        """Abort a connection without activity for `sock_timeout` seconds."""
        timeout = self.connection.sock_timeout
        left = self.last_activity + timeout - self.loop.time()
        if left <= 0 and self.task is None:
            self.timer = None
            self.call_and_discard("connection_timeout", self.connection, self.op)
            self.transport.abort()
            return
        self.timer = self.loop.call_later(left if left > 0 else timeout, self.check_activity)

    # The state machine.

    def wake(self) -> None:
        """Schedule `advance()`; from any thread."""
        if threading.get_ident() == self.connection.this_thread_id:
            self.loop.call_soon(self.advance)
        else:
            call_threadsafe(self.loop, self.advance)

    def advance(self) -> None:
        """Do all steps that can be done now."""
        if self.advancing or self.protocol is None:
            return
        self.advancing = True
        self.has_more_steps = False
        try:
            for _ in range(_MAX_STEPS):
                if self.busy or self.lost or not self.step():
                    break
            else:
                self.has_more_steps = True
                self.loop.call_soon(self.advance)
        finally:
            self.advancing = False
        if self.reading_paused and not (self.busy or self.has_more_steps or self.lost):
            self.reading_paused = False
            self.transport.resume_reading()

    def step(self) -> bool:
        """Do one step; `False` if there is nothing to do."""
        connection, callbacks = self.connection, self.callbacks
        if self.closing or self.transport.is_closing():
            return False
        if self.sent is not None:
            data, self.sent = self.sent, None
            self.call_sent_callback(data)
        elif self.greeting_step < 2 and not connection._closing:
            self.greeting_step += 1
            if self.greeting_step == 1:
                self.send_attribute("initial_bytes_to_send", callbacks.initial_bytes)
            elif (made := callbacks.get("connection_made")) is not None:
                args = (connection, b"")[: callbacks.argument_count("connection_made", 2)]
                self.call_and_send("connection_made", made, *args)
        elif connection._closing or not callbacks.takes_input:
            self.close()
            return False
        elif self.http is not None:
            return self.http.step() or self.check_eof()
        elif self.position < len(self.input):
            return self.take_input() or self.check_eof()
        else:
            return self.check_eof()
        return True

    def check_eof(self) -> bool:
        if self.eof:
            self.close()
        return False

    def close(self) -> None:
        """Close the connection without losing data that was sent.

        Closing a socket with unread input resets the connection, and data in flight is lost. So the
        peer gets time to close first.
        """
        if self.closing or self.transport.is_closing():
            return
        self.closing = True
        self.owner.closing(self)
        if not self.eof:
            self.op = IoOp.CLOSE
            if self.connection.send_id and not self.skip_linger:
                self.transport.write_eof()
                self.linger = self.loop.call_later(_LINGER_TIMEOUT, self.transport.abort)
                return
        self.transport.close()

    def take_input(self) -> bool:
        """Pass input to a callback; `False` if more input is needed."""
        callbacks, connection, protocol = self.callbacks, self.connection, self.protocol
        if callbacks.has_next_bytes:
            self.position = len(self.input)
            self.send_attribute("next_bytes_to_send", protocol.next_bytes_to_send)
        elif callbacks.takes_lines(protocol):
            return self.take_lines()
        else:
            data = self.input[self.position :] if self.position else self.input
            self.input, self.position = b"", 0
            if (received := callbacks.get("data_received")) is not None:
                self.call_and_send("data_received", received, connection, data)
        return True

    def take_lines(self) -> bool:
        many = self.callbacks.get("lines_received")
        find = self.input.rfind if many is not None else self.input.find
        end = find(b"\n", self.position) + 1
        limit = getattr(self.protocol, "max_line_length", _MAX_INPUT)
        if not end:
            if len(self.input) - self.position > limit:
                return self.refuse_line(limit)
            if not self.eof or getattr(self.protocol, "wait_for_eol", False):
                return False
            end = len(self.input)
        data = self.input[self.position : end]
        if many is not None:
            lines = data.splitlines(keepends=True)
            right = [*itertools.takewhile(lambda line: len(line.rstrip(b"\r\n")) <= limit, lines)]
            if not right:
                return self.refuse_line(limit)
            self.position += sum(map(len, right))
            self.call_and_send("lines_received", many, self.connection, right)
        elif len(data.rstrip(b"\r\n")) > limit:
            return self.refuse_line(limit)
        elif (one := self.callbacks.get("line_received")) is not None:
            self.position = end
            self.call_and_send("line_received", one, self.connection, data)
        return True

    def refuse_line(self, limit: int) -> bool:
        """End the connection because of a line that is too long."""
        self.position = len(self.input)
        self.fail("line_received", ValueError(f"a line is longer than {limit} bytes"))
        self.connection._closing = True
        return True

    # Callbacks and their results.

    def call_and_discard(self, name: str, *args: Any) -> None:
        """Call a callback and ignore its result: the connection has ended."""
        if (function := self.callbacks.get(name)) is None:
            return
        try:
            self.invoke(function, *args)
        except BaseException as error:
            self.fail(name, error)

    def invoke(self, function: Callable[..., Any], *args: Any) -> Any:
        self.connection.ioloops += 1
        me = self.connection.this_thread_id
        activity.in_callback.add(me)
        try:
            return function(*args)
        finally:
            activity.in_callback.discard(me)

    def call_and_send(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Call a callback, and send its result."""
        try:
            self.send_result(name, self.invoke(function, *args))
        except BaseException as error:
            self.fail(name, error)

    def send_attribute(self, name: str, given: Any) -> None:
        """Send the value of an attribute, or the result of the function that it holds."""
        if given is None:
            return
        if callable(given):
            self.call_and_send(name, given)
        else:
            self.call_and_send(name, lambda: given)

    def send_result(self, name: str, result: Any, encoder: ResponseEncoder | None = None) -> None:
        """Send the result of a callback, encoded by `encoder`. An awaitable is awaited first."""
        connection = self.connection
        if type(result) is bytes and encoder is None and connection._is_free():
            self.send(result)
            return
        if type(result) not in _NOT_AWAITABLE and inspect.isawaitable(result):
            body = self.await_result(name, result, encoder)
            self.start_task(name, body, encoder, getattr(result, "close", None))
            return
        file, operation = connection._take_scheduled()
        if file is not None:
            if result is not None:
                file.file.close()
                raise RuntimeError(f"{name}() scheduled a file to send, but returned {result!r}")
            if encoder is not None:
                file = encoder(file)
            self.start_task(name, self.send_file(file), encoder, file.file.close)
        elif operation is not None:
            if result is not None:
                raise RuntimeError(f"{name}() scheduled work on a file, but returned {result!r}")
            self.start_task(name, self.run_file_operation(operation, encoder), encoder)
        else:
            if encoder is not None:
                result = encoder(result)
            if result is not None:
                try:
                    data = to_bytes(result)
                except TypeError as error:
                    raise ValueError(f"cannot send the result of {name}(): {error}") from None
                self.send(data)

    async def await_result(
        self, name: str, awaitable: Any, encoder: ResponseEncoder | None
    ) -> None:
        value = await awaitable
        self.busy = False
        self.send_result(name, value, encoder)

    def send(self, data: bytes) -> None:
        if not data or self.transport.is_closing():
            return
        connection = self.connection
        connection.send_id += 1
        self.unsent = data
        self.busy = True
        self.transport.write(data)
        if not self.writing_paused:
            self.finish_send(data)

    def finish_send(self, data: bytes) -> None:
        connection = self.connection
        connection.num_bytes_just_sent = len(data)
        connection.total_bytes_sent += len(data)
        self.unsent = None
        self.busy = False
        if self.callbacks.wants_sent:
            self.sent = data

    def call_sent_callback(self, data: bytes) -> None:
        connection = self.connection
        name, what = "send_complete", cast("int | bytes", connection.send_id)
        if (function := self.callbacks.get(name)) is None:
            name, what = "data_sent", data
            if (function := self.callbacks.get(name)) is None:
                return
        if connection._closing:
            # The connection is being closed: the result is ignored.
            self.call_and_discard(name, connection, what)
            return
        before = connection.send_id
        self.call_and_send(name, function, connection, what)
        if connection.send_id != before and not self.hog:
            self.hog = True
            activity.count_hogs(1)

    def start_task(
        self,
        name: str,
        body: Coroutine[Any, Any, None],
        encoder: ResponseEncoder | None,
        close: Callable[[], object] | None = None,
    ) -> None:
        """Run a coroutine, before any other step of the connection; then call `close()`."""

        def ended(_: object) -> None:
            # It may have been cancelled before it began.
            body.close()
            if close is not None:
                close()

        async def work() -> None:
            try:
                await body
            except asyncio.CancelledError:
                if not self.lost:
                    raise
            except BaseException as error:
                self.busy = False
                if not (self.lost and isinstance(error, ConnectionError)):
                    (self.fail if encoder is None else encoder.failed)(name, error)
            finally:
                if self.task is task:
                    self.task = None
                if self.task is None and self.unsent is None:
                    self.busy = False
            self.advance()

        self.busy = True
        self.task = task = self.loop.create_task(work())
        task.add_done_callback(ended)

    async def drain(self) -> None:
        if self.writing_paused:
            self.drained = self.loop.create_future()
            try:
                await self.drained
            finally:
                self.drained = None

    def fail(self, name: str, error: BaseException) -> None:
        """A callback has raised: call `exception_handler()`, or fail `run()` and close."""
        file, _ = self.connection._take_scheduled()
        if file is not None:
            file.file.close()
        handler = self.callbacks.get("exception_handler")
        unhandled: BaseException | None = error
        if handler is not None and name != "exception_handler":
            unhandled = None
            triple = (type(error), error, error.__traceback__)
            args: tuple[Any, ...] = (self.connection, name, triple)
            if self.callbacks.argument_count("exception_handler", 3) == 2:
                args = (self.connection, triple)
            try:
                if (result := self.invoke(handler, *args)) is not None:
                    raise ValueError(f"non-None return value detected: {result!r}")
            except BaseException as second:
                unhandled = second
        if unhandled is not None:
            self.connection._closing = True
            if self.http is not None and isinstance(unhandled, Exception):
                # Whoever can ask for a page cannot end the server.
                _logger.error("a request for %r has failed", name, exc_info=unhandled)
            else:
                self.runtime.notify(unhandled)
