"""The system refuses the first, the second, … descriptor of everything that needs some."""

import asyncio
import contextlib
import errno
import gc
import os
import resource
import signal
import socket
import threading

import pytest

from tests.support.descriptors import open_fds
from tests.support.streams import Peer, Recorder, tcp_pair

MOST = 24


@contextlib.contextmanager
def only(spare):
    """Let the process open `spare` descriptors more and then none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filling = []
    # A limit just above the highest number, and every number below it in use.
    highest = max(open_fds()) + 1 + MOST
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                filling.append(os.dup(0))
        for _ in range(spare):
            os.close(filling.pop())
        yield
    finally:
        for fd in filling:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_lack_of_descriptors(error):
    if isinstance(error, ExceptionGroup):
        return all(map(is_lack_of_descriptors, error.exceptions))
    if isinstance(error, RuntimeError):  # what add_signal_handler() makes of it
        return True
    return isinstance(error, OSError) and (
        error.errno == errno.EMFILE
        or "Too many open files" in str(error)
        or "could not bind on any address" in str(error)
    )


def refused_until_there_is_room(attempt):
    """Runs `attempt` with more and more descriptors; returns how many it needs."""
    for spare in range(MOST):
        gc.collect()
        before = open_fds()
        try:
            with only(spare):
                attempt()
        except (OSError, RuntimeError, ExceptionGroup) as error:
            assert is_lack_of_descriptors(error), repr(error)
            del error
        else:
            return spare
        gc.collect()
        assert open_fds() <= before, f"with {spare} descriptors: {open_fds() - before}"
    raise AssertionError("no success with any number of descriptors")


def test_making_and_running_a_loop(loop_factory):
    loop_factory().close()  # what is imported late is imported now

    def attempt():
        loop = loop_factory()
        try:
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            loop.close()

    assert refused_until_there_is_room(attempt) <= 3


async def connection(loop, listener):
    transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
    transport.abort()
    return lambda: protocol.lost


async def server(loop, listener):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    server.close()


async def datagram_endpoint(loop, listener):
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    transport.abort()


async def sock_accept(loop, listener):
    client = socket.socket()
    try:
        client.connect(listener.getsockname())
        conn, _ = await loop.sock_accept(listener)
        conn.close()
    finally:
        client.close()
        # Nobody takes it out of the queue if there was no descriptor for it.
        with contextlib.suppress(OSError):
            listener.accept()[0].close()


async def subprocess(loop, listener):
    process = await asyncio.create_subprocess_exec("true", stdin=-1, stdout=-1, stderr=-1)
    await process.communicate()


async def subprocess_without_pipes(loop, listener):
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()


async def pipes(loop, listener):
    reading, writing = (
        os.fdopen(fd, mode, 0) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True)
    )
    reader, protocol = await loop.connect_read_pipe(Recorder, reading)
    writer, _ = await loop.connect_write_pipe(Recorder, writing)
    writer.write(b"through")
    writer.close()
    deadline = loop.time() + 60
    while not protocol.lost:
        assert loop.time() < deadline
        await asyncio.sleep(0)
    assert protocol.data == b"through"


async def signal_handler(loop, listener):
    loop.add_signal_handler(signal.SIGUSR1, int)
    loop.remove_signal_handler(signal.SIGUSR1)


OPERATIONS = [
    connection,
    server,
    datagram_endpoint,
    sock_accept,
    subprocess,
    subprocess_without_pipes,
    pipes,
    signal_handler,
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_refused(loop, operation, unhandled):
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)

    async def run():
        try:
            await operation(loop, listener)
        finally:
            for _ in range(4):
                await asyncio.sleep(0)
            deadline = loop.time() + 60
            while len(asyncio.all_tasks()) > 1 or threading.active_count() > threads:
                assert loop.time() < deadline
                await asyncio.sleep(0.001)

    loop.run_until_complete(loop.run_in_executor(None, int))
    threads = threading.active_count()
    loop.run_until_complete(run())  # what is imported late is imported now
    threads = threading.active_count()
    with listener:
        refused_until_there_is_room(lambda: loop.run_until_complete(run()))
    assert unhandled == []


def test_sendfile(loop, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    ours, theirs = tcp_pair()
    transport, _ = loop.run_until_complete(loop.connect_accepted_socket(Recorder, ours))
    with path.open("rb") as file, theirs:
        for spare in range(2):
            with only(spare):
                assert loop.run_until_complete(loop.sendfile(transport, file, 0)) == 1000
            assert theirs.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))


async def test_accepting_native(loop, unhandled, eventually, monkeypatch):
    """Connections wait in the queue until there is room, and those that are open go on."""
    monkeypatch.setattr(asyncio.constants, "ACCEPT_RETRY_DELAY", 0.01)
    protocols = []

    class Echo(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.write(data)

    def factory():
        protocols.append(Echo())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    peers = [Peer(socket.create_connection(server.sockets[0].getsockname())) for _ in range(4)]
    peers[0].send(b"first")
    with only(1):
        await eventually(lambda: len(unhandled) > 1)
        assert len(protocols) == 1
        await eventually(lambda: protocols[0].data == b"first")
    for number, peer in enumerate(peers):
        if number:
            peer.send(b"later")
        assert await peer.read(5) == (b"later" if number else b"first")
        peer.close()
    for context in unhandled:
        assert context["message"] == "socket.accept() out of system resource"
        assert context["exception"].errno == errno.EMFILE
    server.close()
    await eventually(lambda: all(p.lost for p in protocols))
    # A retry that is still to come finds the server closed.
    await asyncio.sleep(0.02)
