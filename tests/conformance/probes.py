"""One real use of each method of asyncio.AbstractEventLoop, for loops that may lack it."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import trustme

PROBES: dict[str, Callable[[Any], Any]] = {}
DATA = b"what is sent " * 100


def probe(*names):
    """Register a coroutine function that uses the methods ``names``."""

    def register(function):
        for name in names:
            PROBES[name] = function
        return function

    return register


class Collector(asyncio.Protocol):
    """Keeps what it receives; ``done`` is set at the end of the stream."""

    def __init__(self):
        self.data = b""
        self.made = asyncio.get_running_loop().create_future()
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.made.set_result(transport)

    def data_received(self, data):
        self.data += data

    def connection_lost(self, exc):
        if not self.done.done():
            self.done.set_result(None)


class Client(Collector):
    """Sends what there is to send as soon as it is connected."""

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.write(DATA)


class Echo(Collector):
    """Sends back what it receives."""

    def data_received(self, data):
        self.transport.write(data)


class Datagrams(asyncio.DatagramProtocol):
    """Keeps the first datagram."""

    def __init__(self):
        self.first = asyncio.get_running_loop().create_future()

    def datagram_received(self, data, address):
        self.first.set_result((data, address))


@contextlib.contextmanager
def pair():
    """Two connected TCP sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


@contextlib.contextmanager
def datagrams():
    """Two UDP sockets, and the address of the second."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
    ):
        for sock in (ours, theirs):
            sock.bind(("127.0.0.1", 0))
        ours.setblocking(False)
        theirs.settimeout(30)
        yield ours, theirs


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


@probe("run_until_complete", "run_forever", "stop", "is_running", "is_closed", "close")
def run(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert not loop.is_running() and not loop.is_closed()

    async def inside():
        return loop.is_running()

    assert loop.run_until_complete(inside()) is True
    loop.close()
    assert loop.is_closed()


@probe("shutdown_asyncgens")
async def shut_down_asyncgens(loop):
    async def generator():
        try:
            yield 1
        finally:
            ended.append(1)

    ended = []
    kept = generator()
    await anext(kept)
    await loop.shutdown_asyncgens()
    assert ended


@probe("shutdown_default_executor", "run_in_executor")
async def executor(loop):
    assert await loop.run_in_executor(None, sum, [1, 2]) == 3
    await loop.shutdown_default_executor()


@probe("set_default_executor")
async def default_executor(loop):
    loop.set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="own"))
    name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
    assert name.startswith("own")


@probe("call_soon", "call_later", "call_at", "time", "call_soon_threadsafe")
async def calls(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_later(0.001, seen.append, 2)
    loop.call_at(loop.time() + 0.002, seen.append, 3)
    await loop.run_in_executor(None, loop.call_soon_threadsafe, seen.append, 4)
    await until(lambda: sorted(seen) == [1, 2, 3, 4])


@probe("create_future", "create_task")
async def futures(loop):
    future = loop.create_future()
    task = loop.create_task(asyncio.wait_for(future, 30), name="named")
    await asyncio.sleep(0)
    future.set_result(1)
    assert await task == 1 and task.get_name() == "named"


@probe("set_task_factory", "get_task_factory")
async def task_factory(loop):
    def factory(loop, coro, **options):
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **options)

    made = []
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    await loop.create_task(asyncio.sleep(0))
    assert len(made) == 1


@probe("getaddrinfo")
async def getaddrinfo(loop):
    found = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert found[0][4] == ("127.0.0.1", 80)


@probe("getnameinfo")
async def getnameinfo(loop):
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert await loop.getnameinfo(("127.0.0.1", 80), flags) == ("127.0.0.1", "80")


@probe("create_connection", "create_server")
async def connection(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    transport, protocol = await loop.create_connection(Client, *address[:2])
    await until(lambda: protocol.data == DATA)
    transport.close()
    await protocol.done
    server.close()
    await server.wait_closed()


@probe("create_unix_connection", "create_unix_server")
async def unix_connection(loop):
    with tempfile.TemporaryDirectory() as directory:
        server = await loop.create_unix_server(Echo, f"{directory}/socket")
        transport, protocol = await loop.create_unix_connection(Client, f"{directory}/socket")
        await until(lambda: protocol.data == DATA)
        transport.close()
        await protocol.done
        server.close()
        await server.wait_closed()


@probe("connect_accepted_socket")
async def accepted_socket(loop):
    with pair() as (ours, theirs):
        transport, protocol = await loop.connect_accepted_socket(Collector, ours)
        theirs.sendall(DATA)
        await until(lambda: protocol.data == DATA)
        transport.close()
        await protocol.done


@probe("start_tls")
async def start_tls(loop):
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    accepted = []
    server = await loop.create_server(
        lambda: accepted.append(Collector()) or accepted[0], "127.0.0.1", 0
    )
    transport, protocol = await loop.create_connection(
        Collector, *server.sockets[0].getsockname()[:2]
    )
    await until(lambda: accepted and accepted[0].made.done())
    client, serving = await asyncio.gather(
        loop.start_tls(transport, protocol, client_context, server_hostname="localhost"),
        loop.start_tls(accepted[0].transport, accepted[0], server_context, server_side=True),
    )
    client.write(DATA)
    await until(lambda: accepted[0].data == DATA)
    client.close()
    serving.close()
    server.close()
    await server.wait_closed()


@probe("sendfile")
async def sendfile(loop):
    with tempfile.TemporaryFile() as file, pair() as (ours, theirs):
        file.write(DATA)
        file.seek(0)
        transport, protocol = await loop.create_connection(Collector, sock=ours)
        assert await loop.sendfile(transport, file) == len(DATA)
        transport.close()
        await protocol.done
        assert theirs.makefile("rb").read() == DATA


@probe("sock_sendfile")
async def sock_sendfile(loop):
    with tempfile.TemporaryFile() as file, pair() as (ours, theirs):
        file.write(DATA)
        file.seek(0)
        assert await loop.sock_sendfile(ours, file) == len(DATA)
        ours.close()
        assert theirs.makefile("rb").read() == DATA


@probe("create_datagram_endpoint")
async def datagram_endpoint(loop):
    with datagrams() as (_, theirs):
        transport, protocol = await loop.create_datagram_endpoint(
            Datagrams, local_addr=("127.0.0.1", 0)
        )
        theirs.sendto(DATA, transport.get_extra_info("sockname"))
        assert await protocol.first == (DATA, theirs.getsockname())
        transport.sendto(DATA, theirs.getsockname())
        assert theirs.recv(4096) == DATA
        transport.close()
        await asyncio.sleep(0)


@probe("connect_read_pipe")
async def read_pipe(loop):
    reading, writing = os.pipe()
    os.write(writing, DATA)
    os.close(writing)
    _, protocol = await loop.connect_read_pipe(Collector, os.fdopen(reading, "rb", 0))
    await protocol.done
    assert protocol.data == DATA


@probe("connect_write_pipe")
async def write_pipe(loop):
    reading, writing = os.pipe()
    transport, protocol = await loop.connect_write_pipe(Collector, os.fdopen(writing, "wb", 0))
    transport.write(DATA)
    transport.close()
    await protocol.done
    with open(reading, "rb") as file:
        assert file.read() == DATA


class Output(asyncio.SubprocessProtocol):
    def __init__(self):
        self.data = b""
        self.done = asyncio.get_running_loop().create_future()

    def pipe_data_received(self, fd, data):
        self.data += data

    def connection_lost(self, exc):
        self.done.set_result(None)


@probe("subprocess_exec")
async def subprocess_exec(loop):
    transport, protocol = await loop.subprocess_exec(Output, "echo", "text", stdin=None)
    await protocol.done
    assert (protocol.data, transport.get_returncode()) == (b"text\n", 0)


@probe("subprocess_shell")
async def subprocess_shell(loop):
    transport, protocol = await loop.subprocess_shell(Output, "echo text; exit 3", stdin=None)
    await protocol.done
    assert (protocol.data, transport.get_returncode()) == (b"text\n", 3)


@probe("add_reader")
async def add_reader(loop):
    with pair() as (ours, theirs):
        ready = asyncio.Event()
        loop.add_reader(ours.fileno(), ready.set)
        theirs.sendall(DATA)
        await ready.wait()
        loop.remove_reader(ours.fileno())


@probe("remove_reader")
async def remove_reader(loop):
    with pair() as (ours, theirs):
        calls = []
        loop.add_reader(ours.fileno(), calls.append, 1)
        assert loop.remove_reader(ours.fileno()) is True
        assert loop.remove_reader(ours.fileno()) is False
        theirs.sendall(DATA)
        await asyncio.sleep(0.01)
        assert not calls


@probe("add_writer")
async def add_writer(loop):
    with pair() as (ours, _):
        ready = asyncio.Event()
        loop.add_writer(ours.fileno(), ready.set)
        await ready.wait()
        loop.remove_writer(ours.fileno())


@probe("remove_writer")
async def remove_writer(loop):
    with pair() as (ours, _):
        calls = []
        loop.add_writer(ours.fileno(), calls.append, 1)
        assert loop.remove_writer(ours.fileno()) is True
        assert loop.remove_writer(ours.fileno()) is False
        await asyncio.sleep(0.01)
        assert not calls


@probe("sock_recv")
async def sock_recv(loop):
    with pair() as (ours, theirs):
        loop.call_later(0.01, theirs.sendall, DATA)
        assert await loop.sock_recv(ours, 4096) == DATA


@probe("sock_recv_into")
async def sock_recv_into(loop):
    with pair() as (ours, theirs):
        loop.call_later(0.01, theirs.sendall, DATA)
        buffer = bytearray(4096)
        count = await loop.sock_recv_into(ours, buffer)
        assert buffer[:count] == DATA


@probe("sock_recvfrom")
async def sock_recvfrom(loop):
    with datagrams() as (ours, theirs):
        loop.call_later(0.01, theirs.sendto, DATA, ours.getsockname())
        assert await loop.sock_recvfrom(ours, 4096) == (DATA, theirs.getsockname())


@probe("sock_recvfrom_into")
async def sock_recvfrom_into(loop):
    with datagrams() as (ours, theirs):
        loop.call_later(0.01, theirs.sendto, DATA, ours.getsockname())
        buffer = bytearray(4096)
        count, address = await loop.sock_recvfrom_into(ours, buffer)
        assert (bytes(buffer[:count]), address) == (DATA, theirs.getsockname())


@probe("sock_sendall")
async def sock_sendall(loop):
    with pair() as (ours, theirs):
        await loop.sock_sendall(ours, DATA)
        assert theirs.recv(4096) == DATA


@probe("sock_sendto")
async def sock_sendto(loop):
    with datagrams() as (ours, theirs):
        assert await loop.sock_sendto(ours, DATA, theirs.getsockname()) == len(DATA)
        assert theirs.recv(4096) == DATA


@probe("sock_connect", "sock_accept")
async def sock_connect(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as ours:
        listener.setblocking(False)
        ours.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await loop.sock_connect(ours, listener.getsockname())
        theirs, address = await accepting
        with theirs:
            assert address == ours.getsockname()


@probe("add_signal_handler")
async def add_signal_handler(loop):
    seen = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, seen.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await seen.wait()


@probe("remove_signal_handler")
async def remove_signal_handler(loop):
    loop.add_signal_handler(signal.SIGUSR1, int)
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


@probe("get_exception_handler", "set_exception_handler")
async def exception_handler(loop):
    def handler(loop, context):
        pass

    assert loop.get_exception_handler() is None
    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler


@probe("call_exception_handler")
async def call_exception_handler(loop):
    seen = []
    loop.set_exception_handler(lambda loop, context: seen.append(context["message"]))
    loop.call_exception_handler({"message": "told"})
    assert seen == ["told"]


@probe("default_exception_handler")
async def default_exception_handler(loop):
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    loop.default_exception_handler({"message": "told"})
    assert "told" in seen[0]


@probe("get_debug", "set_debug")
async def debug(loop):
    loop.set_debug(True)
    assert loop.get_debug() is True
    loop.set_debug(False)
    assert loop.get_debug() is False
