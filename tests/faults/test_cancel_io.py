"""Cancelling I/O at every await loses no data silently.

The end of child processes is awaited by a private method of their transports.
"""

import asyncio
import contextlib
import inspect
import io
import os
import socket
import sys
import threading

import pytest

from tests.support.descriptors import open_fds
from tests.support.streams import MIB, Recorder, tcp_pair, unix_pair

from . import test_cancel_connecting
from .cancel_walk import LIMIT, Report, child_processes, compare, one_run

DATA = bytes(range(256)) * 1024


def pair(walk, make=unix_pair):
    ours, theirs = make()
    for sock in (ours, theirs):
        sock.setblocking(False)
        walk.closing(sock)
    return ours, theirs


def datagram_pair(walk):
    return pair(walk, lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))


def left_in(sock):
    data = b""
    try:
        while chunk := sock.recv(MIB):
            data += chunk
    except BlockingIOError:
        pass
    return data


async def sock_recv(walk):
    ours, theirs = pair(walk)
    walk.loop.call_soon(theirs.send, b"hello")
    outcome = await walk.attempt(walk.loop.sock_recv(ours, 100))
    await walk.until(lambda: True)
    got = outcome.value if outcome.succeeded else b""
    assert got + left_in(ours) == b"hello"


async def sock_recv_into(walk):
    ours, theirs = pair(walk)
    buffer = bytearray(100)
    walk.loop.call_soon(theirs.send, b"hello")
    outcome = await walk.attempt(walk.loop.sock_recv_into(ours, buffer))
    got = bytes(buffer[: outcome.value]) if outcome.succeeded else b""
    assert got + left_in(ours) == b"hello"
    assert outcome.succeeded or not any(buffer)
    buffer.append(0)  # nobody exports it any longer


async def sock_recvfrom(walk):
    ours, theirs = datagram_pair(walk)
    walk.loop.call_soon(theirs.send, b"hello")
    outcome = await walk.attempt(walk.loop.sock_recvfrom(ours, 100))
    got = outcome.value[0] if outcome.succeeded else b""
    assert got + left_in(ours) == b"hello"


async def sock_recvfrom_into(walk):
    ours, theirs = datagram_pair(walk)
    buffer = bytearray(100)
    walk.loop.call_soon(theirs.send, b"hello")
    outcome = await walk.attempt(walk.loop.sock_recvfrom_into(ours, buffer))
    got = bytes(buffer[: outcome.value[0]]) if outcome.succeeded else b""
    assert got + left_in(ours) == b"hello"
    buffer.append(0)


async def sock_sendall(walk):
    ours, theirs = pair(walk)
    data, received = DATA * 8, bytearray()

    async def reading():
        while len(received) < len(data):
            received.extend(left_in(theirs))
            await asyncio.sleep(0)

    reader = walk.loop.create_task(reading())
    outcome = await walk.attempt(walk.loop.sock_sendall(ours, data))
    if outcome.succeeded:
        await reader
    reader.cancel()
    await asyncio.wait([reader])
    received.extend(left_in(theirs))
    assert data.startswith(received)
    # The socket is as good as before.
    await walk.loop.sock_sendall(ours, b"more")
    assert left_in(theirs) == b"more"


async def sock_sendto(walk):
    path = walk.tmp_path / "receiver"
    walk.stack.callback(path.unlink)
    receiver, sender = pair(
        walk, lambda: [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    )
    receiver.bind(str(path))
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.sendto(b"before", str(path))
            sent += 1
    walk.loop.call_soon(receiver.recv, 100)
    outcome = await walk.attempt(walk.loop.sock_sendto(sender, b"hello", str(path)))
    left = left_in(receiver)
    assert left == b"before" * (sent - 1) + (b"hello" if outcome.succeeded else b"")


async def sock_accept(walk):
    listener = walk.closing(socket.create_server(("127.0.0.1", 0)))
    listener.setblocking(False)
    client = walk.closing(socket.socket())
    client.setblocking(False)
    walk.loop.call_soon(client.connect_ex, listener.getsockname())
    outcome = await walk.attempt(walk.loop.sock_accept(listener))
    if outcome.succeeded:
        outcome.value[0].close()
    else:
        # The connection is still in the queue.
        listener.setblocking(True)
        listener.settimeout(60)
        conn, _ = listener.accept()
        conn.close()


async def sock_connect(walk):
    listener = walk.closing(socket.create_server(("127.0.0.1", 0)))
    client = walk.closing(socket.socket())
    client.setblocking(False)
    outcome = await walk.attempt(walk.loop.sock_connect(client, listener.getsockname()))
    if outcome.succeeded:
        client.send(b"hello")
    assert client.fileno() != -1


async def sock_connect_by_name(walk):
    listener = walk.closing(socket.create_server(("127.0.0.1", 0)))
    client = walk.closing(socket.socket())
    client.setblocking(False)
    address = "localhost", listener.getsockname()[1]
    await walk.attempt(walk.loop.sock_connect(client, address))
    assert client.fileno() != -1


async def drained(sock, received):
    while True:
        received.extend(left_in(sock))
        await asyncio.sleep(0)


async def sock_sendfile(walk):
    ours, theirs = pair(walk, tcp_pair)
    path = walk.tmp_path / "data"
    path.write_bytes(DATA * 8)
    received = bytearray()
    reader = walk.loop.create_task(drained(theirs, received))
    with path.open("rb") as file:
        outcome = await walk.attempt(walk.loop.sock_sendfile(ours, file))
        position = file.tell()
    if outcome.succeeded:
        assert outcome.value == len(DATA) * 8 == position
        await walk.until(lambda: len(received) == outcome.value)
    reader.cancel()
    await asyncio.wait([reader])
    received.extend(left_in(theirs))
    assert (DATA * 8).startswith(received)


async def sendfile_by(walk, file, **options):
    ours, theirs = pair(walk, tcp_pair)
    received = bytearray()
    reader = walk.loop.create_task(drained(theirs, received))
    transport, protocol = await walk.loop.connect_accepted_socket(Recorder, ours)
    outcome = await walk.attempt(walk.loop.sendfile(transport, file, **options))
    if outcome.succeeded:
        await walk.until(lambda: len(received) == outcome.value)
    # The transport works on.
    assert transport.is_reading()
    transport.write(b"end")
    await walk.until(lambda: received.endswith(b"end"))
    assert (DATA * 8).startswith(received[:-3])
    transport.abort()
    await walk.until(lambda: protocol.lost)
    reader.cancel()
    await asyncio.wait([reader])


async def sendfile(walk):
    path = walk.tmp_path / "data"
    path.write_bytes(DATA * 8)
    with path.open("rb") as file:
        await sendfile_by(walk, file)


async def sendfile_without_a_descriptor(walk):
    await sendfile_by(walk, io.BytesIO(DATA * 3))


async def getaddrinfo(walk):
    await walk.attempt(walk.loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM))


async def getaddrinfo_of_a_literal(walk):
    await walk.attempt(walk.loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM))


async def getnameinfo(walk):
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    await walk.attempt(walk.loop.getnameinfo(("127.0.0.1", 80), flags))


async def run_in_executor(walk):
    go, ended = threading.Event(), threading.Event()

    def work():
        assert go.wait(60)
        ended.set()
        return "done"

    walk.loop.call_later(0.001, go.set)
    outcome = await walk.attempt(walk.loop.run_in_executor(None, work))
    go.set()
    if outcome.succeeded:
        assert outcome.value == "done"
        assert ended.is_set()


async def generator_aclose(walk):
    closed = []

    async def numbers():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    generator = numbers()
    await anext(generator)
    await walk.attempt(generator.aclose())
    del generator


async def shutdown_asyncgens(walk):
    closed = []

    async def numbers():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    generators = [numbers() for _ in range(3)]
    for generator in generators:
        await anext(generator)
    outcome = await walk.attempt(walk.loop.shutdown_asyncgens())
    if outcome.succeeded:
        assert closed == [True] * 3
    for generator in generators:
        await generator.aclose()


async def shutdown_default_executor(walk):
    go = threading.Event()
    working = walk.loop.run_in_executor(None, go.wait, 60)
    # Before 3.13, asyncio's waits for the thread, and blocks the loop, when it is cancelled.
    timer = threading.Timer(0.002, go.set)
    timer.start()
    await walk.attempt(walk.loop.shutdown_default_executor())
    assert await working
    timer.join()


async def read_pipe(walk):
    reading, writing = os.pipe()
    file = os.fdopen(reading, "rb", 0)
    outcome = await walk.attempt(walk.loop.connect_read_pipe(Recorder, file))
    if outcome.succeeded:
        os.write(writing, b"x")
        transport, protocol = outcome.value
        await walk.until(lambda: protocol.data == b"x")
        transport.close()
    os.close(writing)
    await walk.until(lambda: file.closed)


async def write_pipe(walk):
    reading, writing = os.pipe()
    file = os.fdopen(writing, "wb", 0)
    outcome = await walk.attempt(walk.loop.connect_write_pipe(Recorder, file))
    if outcome.succeeded:
        transport, _ = outcome.value
        transport.write(b"x")
        assert os.read(reading, 2) == b"x"
        transport.close()
    os.close(reading)
    await walk.until(lambda: file.closed)


async def no_child_left(walk):
    await walk.until(lambda: not child_processes() - walk.other_children)


async def subprocess_exec(walk):
    coroutine = walk.loop.subprocess_exec(
        asyncio.SubprocessProtocol, sys.executable, "-S", "-c", "input()"
    )
    outcome = await walk.attempt(coroutine)
    if outcome.succeeded:
        transport, _ = outcome.value
        transport.close()
        await transport._wait()
    await no_child_left(walk)


async def create_subprocess_shell(walk):
    # Without exec, the shell may be killed and leave a cat that nobody knows.
    outcome = await walk.attempt(
        asyncio.create_subprocess_shell("exec cat", stdin=-1, stdout=-1, stderr=-1)
    )
    if outcome.succeeded:
        process = outcome.value
        assert await process.communicate(b"hello") == (b"hello", b"")
    await no_child_left(walk)


async def communicate(walk):
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    outcome = await walk.attempt(process.communicate(DATA))
    if outcome.succeeded:
        assert outcome.value == (DATA, None)
    else:
        # Not killed: before Python 3.12.9, Popen.kill() may take the status from the child watcher.
        process.stdin.close()
        await process.communicate()
        assert process.returncode == 0
    await no_child_left(walk)


async def process_wait(walk):
    process = await asyncio.create_subprocess_exec("cat", stdin=-1)
    walk.loop.call_later(0.001, process.stdin.close)
    outcome = await walk.attempt(process.wait())
    assert outcome.value in (0, None)
    assert await process.wait() == 0
    await no_child_left(walk)


async def open_connection(walk):
    listener = walk.closing(socket.create_server(("127.0.0.1", 0)))
    outcome = await walk.attempt(asyncio.open_connection(*listener.getsockname()))
    if outcome.succeeded:
        outcome.value[1].close()
        await outcome.value[1].wait_closed()


async def start_server(walk):
    outcome = await walk.attempt(asyncio.start_server(lambda *_: None, "127.0.0.1", 0))
    if outcome.succeeded:
        outcome.value.close()
        await outcome.value.wait_closed()


async def stream(walk):
    ours, theirs = pair(walk)
    reader, writer = await asyncio.open_connection(sock=ours)
    walk.stack.callback(writer.close)
    return reader, writer, theirs


async def read_stream(walk, method, *args):
    reader, _, theirs = await stream(walk)
    walk.loop.call_later(0.0005, theirs.send, b"line ")
    walk.loop.call_later(0.001, theirs.send, b"one\n")
    outcome = await walk.attempt(getattr(reader, method)(*args))
    got = outcome.value if outcome.succeeded else b""
    rest = await reader.readexactly(len(b"line one\n") - len(got))
    assert got + rest == b"line one\n"


async def read(walk):
    await read_stream(walk, "read", 100)


async def readline(walk):
    await read_stream(walk, "readline")


async def readexactly(walk):
    await read_stream(walk, "readexactly", 9)


async def drain(walk):
    _, writer, theirs = await stream(walk)
    writer.write(DATA * 8)
    received = bytearray()
    reading = walk.loop.create_task(drained(theirs, received))
    await walk.attempt(writer.drain())
    await walk.until(lambda: received == DATA * 8)
    reading.cancel()
    await asyncio.wait([reading])


async def wait_closed(walk):
    _, writer, theirs = await stream(walk)
    writer.write(DATA * 8)
    writer.close()
    received = bytearray()
    reading = walk.loop.create_task(drained(theirs, received))
    await walk.attempt(writer.wait_closed())
    await walk.until(lambda: received == DATA * 8)
    reading.cancel()
    await asyncio.wait([reading])


OPERATIONS = [
    sock_recv,
    sock_recv_into,
    sock_recvfrom,
    sock_recvfrom_into,
    sock_sendall,
    sock_sendto,
    sock_accept,
    sock_connect,
    sock_connect_by_name,
    sock_sendfile,
    sendfile,
    sendfile_without_a_descriptor,
    getaddrinfo,
    getaddrinfo_of_a_literal,
    getnameinfo,
    run_in_executor,
    generator_aclose,
    read_pipe,
    write_pipe,
    subprocess_exec,
    create_subprocess_shell,
    communicate,
    process_wait,
    open_connection,
    start_server,
    read,
    readline,
    readexactly,
    drain,
    wait_closed,
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_cancelled_at_every_await(loop_factory, tmp_path, operation):
    compare(loop_factory, operation, tmp_path)


@pytest.mark.parametrize("operation", [shutdown_asyncgens, shutdown_default_executor])
def test_shutdowns_cancelled_at_every_await(loop_factory, tmp_path, operation):
    """As above, with a loop for each run, because a shutdown is the last of its kind."""

    def walk(new_event_loop):
        report = Report()
        for late in (False, True):
            for stop_at in range(1, LIMIT):
                fds = open_fds()
                loop = new_event_loop()
                loop.set_exception_handler(lambda _, context: report.contexts.append(context))
                try:
                    once = one_run(loop, operation, stop_at, late, tmp_path, report)
                    again = loop.run_until_complete(once)
                finally:
                    loop.close()
                assert open_fds() <= fds
                if not again:
                    break
        return report

    ours, expected = walk(loop_factory), walk(asyncio.SelectorEventLoop)
    assert "result" in ours.kinds <= expected.kinds
    assert not ours.contexts or expected.contexts


def test_every_method_is_walked():
    """No coroutine of the loop is left out, here or where connections are made."""
    walked = inspect.getsource(sys.modules[__name__]) + inspect.getsource(test_cancel_connecting)
    methods = {
        name
        for name, method in vars(asyncio.AbstractEventLoop).items()
        if inspect.iscoroutinefunction(method)
    }
    assert len(methods) >= 25
    # asyncio's own functions call these.
    by_another_name = {"subprocess_shell": "asyncio.create_subprocess_shell("}
    left_out = {
        name for name in methods if by_another_name.get(name, f".loop.{name}(") not in walked
    }
    assert not left_out
