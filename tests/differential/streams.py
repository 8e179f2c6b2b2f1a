"""Plays a scenario on a loop and writes down all that can be seen of it."""

import asyncio
import contextlib
import fcntl
import logging
import socket
import struct
import sys
import termios
import time

from .scenarios import HUGE, TINY

PATIENCE = 60
ESTABLISHED, FIN_WAIT_1, CLOSED = 1, 4, 7
ITERATIONS = 6
AFTER_EOF = "Cannot call write() after write_eof()"


class Trace:
    """What happened, in order; pieces of data that follow each other count as one."""

    def __init__(self):
        self.entries = []
        self.events = 0

    def add(self, *entry):
        self.events += 1
        if entry[0].endswith(":data") and self.entries and self.entries[-1][0] == entry[0]:
            entry = (entry[0], self.entries.pop()[1] + entry[1])
        self.entries.append(entry)


class Player:
    """A transport, its protocols and the peer, driven by a scenario."""

    def __init__(self, loop, scenario, pair):
        self.loop = loop
        self.scenario = scenario
        self.trace = Trace()
        self.reactions = dict(scenario.reactions)
        self.transport = None
        self.protocols = 0
        self.lost = False
        self.aborted = False
        self.is_paused = False
        self.eof_kept_open = False
        self.arrived = bytearray()
        self.sent = bytearray()
        self.ended = None
        self.ours, self.theirs = pair

    # The application.

    def protocol(self, kind):
        self.protocols += 1
        return {"plain": Plain, "buffered": Buffered}[kind](self, f"p{self.protocols}")

    def called(self, who, name, *details):
        self.trace.add(f"{who}:{name}", *details)
        for operation in self.reactions.pop(name, ()):
            self.do(operation)

    def do(self, operation):
        name, *arguments = operation
        if name == "raise":
            raise ArithmeticError("as the scenario wants")
        try:
            result = getattr(self, f"do_{name}")(*arguments)
        except Exception as error:
            # Before Python 3.12, asyncio's writelines() is a write() in its messages too.
            message = str(error).replace("writelines()", "write()")
            self.trace.add("raised", operation, type(error).__name__, message)
        else:
            if name.startswith("peer"):
                self.arrive()
            elif result is not None:
                self.trace.add("returned", operation, result)

    def write(self, data):
        # What asyncio makes of a write to a closed transport without a rest depends on how it
        # was closed.
        if not self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.transport.write(data)
            self.sent += data

    def do_write(self, number):
        self.write(TINY[number])

    def do_write_huge(self):
        self.write(bytes([len(self.sent) % 251]) * HUGE)

    def do_write_empty(self):
        self.write(b"")

    def do_write_text(self):
        self.transport.write("text")

    def do_write_view(self):
        self.write(memoryview(b"viewed"))

    def writelines(self, pieces):
        # asyncio's transport breaks when it is given lines after its end.
        if self.transport.is_closing():
            return
        self.transport.writelines(pieces)
        self.sent += b"".join(pieces)

    def do_writelines(self):
        self.writelines([b"one", b"two", b"three"])

    def do_writelines_mixed(self):
        self.writelines([b"", bytearray(b"four"), memoryview(b"five")])

    def do_many_writes(self):
        for _ in range(7):
            self.write(b"again")

    def do_write_eof(self):
        self.transport.write_eof()

    def do_close(self):
        self.transport.close()

    def do_abort(self):
        # asyncio's transport has no loop any more when it is over.
        if not self.lost:
            self.aborted = True
            self.transport.abort()

    def do_pause_reading(self):
        self.transport.pause_reading()

    def do_resume_reading(self):
        # asyncio would report the same EOF again.
        if not self.eof_kept_open:
            self.transport.resume_reading()

    def do_limits(self, high):
        # TCP takes more or less at a time, and that may be just enough.
        if self.is_paused and is_tcp(self.ours):
            return None
        self.transport.set_write_buffer_limits(high)
        return self.transport.get_write_buffer_limits()

    def do_set_protocol(self, kind):
        self.transport.set_protocol(self.protocol(kind))

    def do_get_protocol(self):
        return getattr(self.transport.get_protocol(), "name", None)

    # The peer.

    def do_peer_send(self, number):
        with contextlib.suppress(OSError):
            self.theirs.send(TINY[number])

    def do_peer_send_much(self):
        with contextlib.suppress(OSError):
            self.theirs.send(b"m" * 12_000)

    def do_peer_shutdown(self):
        with contextlib.suppress(OSError):
            self.theirs.shutdown(socket.SHUT_WR)

    def do_peer_close(self):
        self.theirs.close()

    def do_peer_reset(self):
        if self.theirs.fileno() != -1:
            self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.theirs.close()

    def do_peer_drain(self):
        """Read until the other side has nothing more to send."""
        deadline = time.monotonic() + PATIENCE
        while self.theirs.fileno() != -1 and self.ended is None:
            if not self.receive():
                self.iterate()
                if not self.receive() and not self.is_sending():
                    break
            assert time.monotonic() < deadline, "what was written does not arrive"

    def receive(self):
        if self.ended is not None:
            return False
        try:
            data = self.theirs.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError as error:
            self.ended = type(error).__name__
            return False
        if not data:
            self.ended = "end"
        self.arrived += data
        return bool(data)

    def is_sending(self):
        if self.lost:
            return True  # the end is on its way
        return self.transport.get_write_buffer_size() > 0 or self.in_kernel() > 0

    def in_kernel(self):
        """Bytes that TCP has taken and the peer does not have yet."""
        return unsent(self.ours)

    def arrive(self):
        """Wait until the other side has what the peer did, which TCP does in its own time."""
        deadline = time.monotonic() + PATIENCE
        while unsent(self.theirs) or self.has_not_heard():
            assert time.monotonic() < deadline, "the kernel does not deliver"

    def has_not_heard(self):
        if self.theirs.fileno() != -1:
            return tcp_state(self.theirs) == FIN_WAIT_1
        return tcp_state(self.ours) == ESTABLISHED

    # The loop.

    def iterate(self):
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def settle(self):
        """Let everything happen that can."""
        quiet, before = 0, None
        while quiet < ITERATIONS:
            self.iterate()
            quiet = quiet + 1 if before == self.trace.events else 0
            before = self.trace.events

    def play(self):
        self.loop.set_exception_handler(self.report)
        with logged(self.trace):
            self.begin()
            self.settle()
            for step in self.scenario.steps:
                inside = [operation for operation in step if operation != ("peer_drain",)]
                self.loop.call_soon(self.step, inside)
                self.settle()
                if len(inside) < len(step):
                    self.do_peer_drain()
                self.settle()
                self.state()
            self.end()
        return self.trace.entries

    def step(self, operations):
        for operation in operations:
            self.do(operation)

    def begin(self):
        self.loop.run_until_complete(self.connect())

    async def connect(self):
        self.transport, _ = await self.loop.connect_accepted_socket(
            lambda: self.protocol(self.scenario.protocol), self.ours
        )

    def state(self):
        transport = self.transport
        self.trace.add(
            "state",
            transport.is_closing(),
            transport.is_reading(),
            transport.get_write_buffer_size() > 0,
        )

    def end(self):
        """Close both sides; what arrived has to be what was written, as far as it goes."""
        self.do_peer_drain()
        self.settle()
        self.state()
        # How much the kernel had taken when a connection broke is not defined.
        complete = self.aborted or len(self.arrived) == len(self.sent)
        self.trace.add("arrived", complete, self.sent.startswith(self.arrived), self.ended)
        if not self.lost:
            self.transport.abort()
        self.theirs.close()
        self.settle()
        self.trace.add("over", self.lost, self.ours.fileno() == -1)

    def exception(self, error):
        # Reading and writing find different errors, and which comes first is not defined.
        if isinstance(error, ConnectionError):
            return "ConnectionError"
        return None if error is None else repr(error)

    def report(self, _loop, context):
        error = context.get("exception")
        message = context["message"].partition("callback")[0]
        self.trace.add("handler", message, type(error).__name__, sorted(context))


class Plain(asyncio.Protocol):
    def __init__(self, player, name):
        self.player = player
        self.name = name

    def connection_made(self, transport):
        self.player.transport = transport
        self.player.called(self.name, "connection_made")

    def data_received(self, data):
        self.player.trace.add(f"{self.name}:data", bytes(data))
        self.player.called(self.name, "data_received") if self.reacts() else None

    def reacts(self):
        return "data_received" in self.player.reactions

    def eof_received(self):
        self.player.eof_kept_open = self.player.scenario.eof is True
        self.player.called(self.name, "eof_received")
        if self.player.scenario.eof == "raise":
            raise ArithmeticError("as the scenario wants")
        return self.player.scenario.eof

    def pause_writing(self):
        self.player.is_paused = True
        self.player.called(self.name, "pause_writing")

    def resume_writing(self):
        self.player.is_paused = True
        self.player.called(self.name, "resume_writing")
        self.player.is_paused = False

    def connection_lost(self, exc):
        self.player.lost = True
        self.player.called(self.name, "connection_lost", self.player.exception(exc))


class Buffered(Plain, asyncio.BufferedProtocol):
    """The same by a buffer of its own, with room for all that arrives."""

    def __init__(self, player, name):
        super().__init__(player, name)
        self.buffer = bytearray(1 << 18)

    def get_buffer(self, sizehint):
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes):
        self.data_received(self.buffer[:nbytes])


def is_tcp(sock):
    return sock.fileno() != -1 and sock.family == socket.AF_INET


def unsent(sock):
    if not is_tcp(sock) or tcp_state(sock) == CLOSED:
        return 0
    count = fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(count, sys.byteorder)


def tcp_state(sock):
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)[0] if is_tcp(sock) else None


@contextlib.contextmanager
def logged(trace):
    """Keep what asyncio logs in the trace."""

    class Handler(logging.Handler):
        def emit(self, record):
            # hybridloop finds out at the end of the iteration, and so has fewer writes to warn of.
            if record.msg != "socket.send() raised exception.":
                trace.add("log", record.levelname, record.msg)

    handler = Handler(logging.WARNING)
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def agree(expected, found):
    """Whether both saw the same, but for what the documentation says is different."""
    if expected[-1][0] == "stuck":
        return found[-1][0] != "stuck"
    found = iter(found)
    for wanted in expected:
        # asyncio's transport stumbles when `resume_writing()` closes it, and `write_eof()` when
        # the peer is gone.
        if wanted[0] == "handler" and wanted[2] == "AttributeError":
            continue
        if wanted[:3] == ("handler", "Exception in ", "OSError"):
            continue
        if wanted[:3] == ("raised", ("write_eof",), "OSError"):
            continue
        entry = next(found, None)
        # A failed write is noticed at the end of the iteration. More may have been read by then, or
        # refused.
        if is_broken(wanted):
            while entry and is_before_the_break(entry):
                entry = next(found, None)
        # One event hands over up to 16 datagrams; asyncio's second is lost if sending fails first.
        while entry and wanted[0].endswith(":error_received") and is_datagram(entry):
            entry = next(found, None)
        if entry != wanted and not is_more_data(entry, wanted) and not is_the_reason(entry, wanted):
            return False
    return next(found, None) is None


def is_datagram(entry):
    return entry[0].endswith(":datagram_received")


def is_broken(entry):
    return entry[0].endswith(":connection_lost") and entry[1] == "ConnectionError"


def is_the_reason(entry, wanted):
    """Whether the protocol has raised before it was noticed that its last write failed."""
    return is_broken(wanted) and entry and entry[0] == wanted[0] and "Arithmetic" in str(entry[1])


def is_before_the_break(entry):
    name = entry[0].partition(":")[2]
    if entry[0] == "returned":  # to what reacts to data
        return True
    if entry[0] == "handler":  # of a protocol that raises when it reads
        return entry[2] == "ArithmeticError"
    return name in ("data", "data_received", "eof_received") or entry[2:] == (
        "RuntimeError",
        AFTER_EOF,
    )


def is_more_data(entry, wanted):
    return (
        entry is not None
        and entry[0] == wanted[0]
        and entry[0].endswith(":data")
        and entry[1].startswith(wanted[1])
    )
