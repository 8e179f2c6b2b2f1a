"""`loop.close()` with something in flight: nothing stays behind, and what is dropped is named."""

import asyncio
import contextlib
import functools
import gc
import os
import re
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
import warnings
import weakref

import pytest
import trustme

import hybridloop
from tests.support.descriptors import name_of, open_fds
from tests.support.streams import MIB, Recorder, tcp_pair, unix_pair


async def server(loop, keep):
    keep(await loop.create_server(Recorder, "127.0.0.1", 0))


async def unix_server(loop, keep):
    keep(await loop.create_unix_server(Recorder, f"\0hybridloop-closing-test-{os.getpid()}"))


async def serving(loop, keep):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    loop.create_task(server.serve_forever())
    keep(socket.create_connection(server.sockets[0].getsockname()))
    await asyncio.sleep(0.01)


async def connection(loop, keep):
    ours, theirs = tcp_pair()
    keep(theirs)
    await loop.connect_accepted_socket(Recorder, ours)


async def transfer(loop, keep):
    ours, theirs = unix_pair()
    keep(theirs)
    transport, _ = await loop.connect_accepted_socket(Recorder, ours)
    transport.write(b"x" * 4 * MIB)
    theirs.send(b"unread")


async def closing_transfer(loop, keep):
    ours, theirs = unix_pair()
    keep(theirs)
    transport, _ = await loop.connect_accepted_socket(Recorder, ours)
    transport.write(b"x" * 4 * MIB)
    transport.close()


async def stream(loop, keep):
    ours, theirs = unix_pair()
    keep(theirs)
    reader, _writer = await asyncio.open_connection(sock=ours)
    loop.create_task(reader.read(1))
    await asyncio.sleep(0)


@functools.cache
def tls_contexts():
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


async def tls_handshake(loop, keep):
    ours, theirs = unix_pair()
    keep(theirs)
    loop.create_task(loop.connect_accepted_socket(Recorder, ours, ssl=tls_contexts()[0]))
    await asyncio.sleep(0.01)


async def tls(loop, keep):
    """Both ends, with more on its way than the sockets take."""
    server, client = tls_contexts()
    ours, theirs = unix_pair()
    accepting = loop.create_task(loop.connect_accepted_socket(Recorder, ours, ssl=server))
    reading, _ = await loop.create_unix_connection(
        Recorder, sock=theirs, ssl=client, server_hostname="localhost"
    )
    reading.pause_reading()
    writing, _ = await accepting
    writing.write(b"x" * 4 * MIB)
    await asyncio.sleep(0)


async def tls_shutdown(loop, keep):
    server, client = tls_contexts()
    ours, theirs = unix_pair()
    accepting = loop.create_task(loop.connect_accepted_socket(Recorder, ours, ssl=server))
    reading, _ = await loop.create_unix_connection(
        Recorder, sock=theirs, ssl=client, server_hostname="localhost"
    )
    reading.pause_reading()
    writing, _ = await accepting
    writing.close()
    await asyncio.sleep(0)


async def own_stream(loop, keep):
    ours, theirs = unix_pair()
    keep(theirs)
    reader, writer = await hybridloop.open_connection(sock=ours)
    writer.write(b"x" * 4 * MIB)
    loop.create_task(writer.drain())
    loop.create_task(reader.readline())
    await asyncio.sleep(0)


async def sendfile(loop, keep):
    ours, theirs = unix_pair()
    keep(theirs)
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.truncate(16 * MIB)
    transport, _ = await loop.connect_accepted_socket(Recorder, ours)
    task = loop.create_task(loop.sendfile(transport, file))
    task.add_done_callback(lambda _: file.close())
    keep(file)
    await asyncio.sleep(0.01)


async def sock_sends(loop, keep):
    ours, theirs = unix_pair()
    ours.setblocking(False)
    keep(ours)
    keep(theirs)
    loop.create_task(loop.sock_sendall(ours, b"x" * 4 * MIB))
    await asyncio.sleep(0)


async def datagrams(loop, keep):
    await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))


async def pipes(loop, keep):
    reading, writing = os.pipe()
    await loop.connect_read_pipe(Recorder, os.fdopen(reading, "rb", 0))
    transport, _ = await loop.connect_write_pipe(Recorder, os.fdopen(writing, "wb", 0))
    transport.write(b"x" * MIB)


async def subprocess(loop, keep):
    await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", "open(0).read()", stdin=-1, stdout=-1
    )


async def sock_waits(loop, keep):
    for call in ("recv", "accept"):
        ours, theirs = socket.socketpair()
        if call == "accept":
            ours.close()
            ours = socket.create_server(("127.0.0.1", 0))
        ours.setblocking(False)
        keep(ours)
        keep(theirs)
        arguments = (ours, 10) if call == "recv" else (ours,)
        loop.create_task(getattr(loop, f"sock_{call}")(*arguments))
    await asyncio.sleep(0)


async def readers(loop, keep):
    ours, theirs = socket.socketpair()
    keep(ours)
    keep(theirs)
    loop.add_reader(ours, int)
    loop.add_writer(theirs, int)


async def timers(loop, keep):
    for delay in (0, 0.001, 3600):
        loop.call_later(delay, int)
    loop.call_soon_threadsafe(int)
    loop.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)


async def executor(loop, keep):
    loop.run_in_executor(None, time.sleep, 0.05)


async def signals(loop, keep):
    loop.add_signal_handler(signal.SIGUSR1, int)


async def lookup(loop, keep):
    loop.create_task(loop.getaddrinfo("localhost", 80))
    await asyncio.sleep(0)


KINDS = [
    server,
    unix_server,
    serving,
    connection,
    transfer,
    closing_transfer,
    stream,
    own_stream,
    tls_handshake,
    tls,
    tls_shutdown,
    sendfile,
    sock_sends,
    datagrams,
    pipes,
    sock_waits,
    readers,
    timers,
    executor,
    signals,
    lookup,
]

if sys.version_info >= (3, 12):
    # Before, a thread of asyncio's waits for the child, and keeps the loop as long as that lives.
    KINDS.append(subprocess)


@contextlib.contextmanager
def only_explicit_collection():
    """Who of a cycle is finalized first, and so what is said, depends on earlier collections."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def close_with(new_event_loop, kinds, patience=60):
    """What is said and what is left when a loop is closed in the middle of it all."""
    kept, messages, said = [], [], []
    with warnings.catch_warnings(), only_explicit_collection():
        warnings.simplefilter("always", ResourceWarning)
        # As text: the warning itself holds on to what it is about.
        warnings.showwarning = lambda message, *_: said.append(str(message))
        gc.collect()
        said.clear()  # what others have left
        before, threads = open_fds(), set(threading.enumerate())
        loop = new_event_loop()
        loop.set_exception_handler(lambda _, context: messages.append(context["message"]))
        for kind in kinds:
            loop.run_until_complete(kind(loop, kept.append))
        loop.close()
        while kept:
            if hasattr(kept[-1], "close") and not isinstance(kept[-1], asyncio.AbstractServer):
                kept[-1].close()
            kept.pop()
        gone = weakref.ref(loop)
        del loop
        begin = time.monotonic()
        while True:
            gc.collect()
            left = {fd: name_of(fd) for fd in open_fds() - before}
            ended = gone() is None and set(threading.enumerate()) <= threads
            waited = time.monotonic() - begin
            if ended and (not left or waited > patience):
                break
            assert waited < 100, (gone(), threading.enumerate())
            time.sleep(0.002)
    named = {
        re.search(r"unclosed [a-z ]*<_?(\w+)|is still running|$", text)[0].strip() for text in said
    }
    return left, named, set(messages)


@pytest.fixture(autouse=True)
def _leftovers(clean_end, monkeypatch):
    clean_end.expected = True  # asyncio logs what it drops
    # asyncio's pipes raise in their finalizers when the loop is closed, and who keeps the
    # traceback keeps the loop.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_closed_in_the_middle(loop_factory, kind):
    left, named, messages = close_with(loop_factory, [kind])
    assert left == {}
    left, expected, expected_messages = close_with(asyncio.SelectorEventLoop, [kind], 0.5)
    for fd in left:
        os.close(fd)
    # A lookup may have ended by then.
    assert messages == expected_messages or kind is lookup

    def transports(names):
        return {name for name in names if "transport" in name or "running" in name}

    def renamed(names):
        # Ours are named without what theirs begin with.
        return {re.sub("_Selector|_Unix(?=Subprocess)", "", name) for name in names}

    # Sockets without a Python object are not named one by one.
    if kind is tls_handshake:
        # Who waited for it is named, and closes the transport, which in asyncio fails; unless the
        # collector comes to the transport first.
        assert messages == {"Task was destroyed but it is pending!"}
        assert transports(named) <= {
            "unclosed transport <SocketTransport",
            "unclosed transport <asyncio",
        }
    else:
        assert transports(named) == renamed(transports(expected))
    assert "unclosed <socket" not in named or "unclosed <socket" in expected


def test_closed_in_the_middle_of_it_all(loop_factory):
    left, _, _ = close_with(loop_factory, KINDS)
    assert left == {}
    assert signal.set_wakeup_fd(-1) == -1
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_memory_of_loops_closed_in_the_middle(loop_factory):
    """Many rounds of everything leave no more objects behind than a few."""
    kinds = [kind for kind in KINDS if kind not in (subprocess, executor, lookup)]

    def objects():
        gc.collect()
        return len(gc.get_objects())

    for _ in range(3):
        close_with(loop_factory, kinds)
    before = objects()
    for _ in range(10):
        close_with(loop_factory, kinds)
    assert objects() - before < 300
