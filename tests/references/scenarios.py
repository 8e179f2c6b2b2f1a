"""What applications do with a loop; each coroutine function runs on a loop of its own."""

import asyncio
import gc
import os
import signal
import socket
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

import hybridloop

SCENARIOS = {}
LARGE = b"x" * 1_000_000


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def run(name, loop_factory=hybridloop.new_event_loop):
    """Run a scenario once, and collect what is garbage then."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: None)
        runner.run(SCENARIOS[name]())
    gc.collect()


def fail(*_):
    raise ValueError("on purpose")


@scenario
async def callbacks():
    loop = asyncio.get_running_loop()
    loop.call_soon(fail)
    loop.call_soon(print, *range(6)).cancel()
    loop.call_soon_threadsafe(fail)
    loop.call_later(0, fail)
    loop.call_later(3600, fail)
    timer = loop.call_at(loop.time() + 3600, fail)
    repr(timer)
    timer.cancel()
    await asyncio.sleep(0.001)


@scenario
async def callbacks_of_another_thread():
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def other():
        for _ in range(10):
            loop.call_soon_threadsafe(int)
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=other)
    thread.start()
    await done
    thread.join()


@scenario
async def tasks_and_futures():
    loop = asyncio.get_running_loop()

    async def value(number):
        await asyncio.sleep(0)
        if number % 2:
            raise ValueError(number)
        return number

    await asyncio.gather(*map(value, range(6)), return_exceptions=True)
    task = loop.create_task(asyncio.sleep(3600), name="name")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    future = loop.create_future()
    future.add_done_callback(fail)
    future.set_exception(ValueError())
    await asyncio.wait([future])
    try:
        await asyncio.wait_for(loop.create_future(), 0.001)
    except TimeoutError:
        pass
    never_retrieved = loop.create_future()
    never_retrieved.set_exception(ValueError())


@scenario
async def tasks_left_over():
    loop = asyncio.get_running_loop()
    for _ in range(3):
        task = loop.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)
    task.add_done_callback(fail)


@scenario
async def eager_tasks():
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    await asyncio.gather(*(asyncio.sleep(0, n) for n in range(3)))


@scenario
async def asynchronous_generators():
    async def count():
        for number in range(10):
            yield number
            await asyncio.sleep(0)

    async for _ in (left := count()):
        break
    async for _ in count():
        break
    await left.aclose()


@scenario
async def executor():
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(None, int) for _ in range(3)))
    await asyncio.wait([loop.run_in_executor(None, fail)])
    await loop.getaddrinfo("127.0.0.1", 80)
    await loop.getnameinfo(("127.0.0.1", 80))


@scenario
async def signals():
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        return
    done = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, done.set_result, None)
    os.kill(os.getpid(), signal.SIGUSR1)
    await done
    loop.remove_signal_handler(signal.SIGUSR1)


@scenario
async def readers():
    loop = asyncio.get_running_loop()
    first, second = socket.socketpair()
    with first, second:
        ready = loop.create_future()
        loop.add_reader(first, ready.set_result, None)
        second.send(b"x")
        await ready
        loop.add_reader(first, int)
        loop.add_writer(first, int)
        loop.remove_writer(first)
        loop.remove_reader(first)


@scenario
async def sockets():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        server.setblocking(False)
        client.setblocking(False)
        accepting = loop.create_task(loop.sock_accept(server))
        await loop.sock_connect(client, server.getsockname())
        connection, _ = await accepting
        with connection:
            await loop.sock_sendall(client, b"hello")
            await loop.sock_recv(connection, 100)
            buffer = bytearray(10)
            receiving = loop.create_task(loop.sock_recv_into(connection, buffer))
            await asyncio.sleep(0)
            await loop.sock_sendall(client, b"hello")
            await receiving
            receiving = loop.create_task(loop.sock_recv(connection, 100))
            await asyncio.sleep(0)
            receiving.cancel()
            await asyncio.wait([receiving])


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Fails(Echo):
    data_received = eof_received = connection_lost = pause_writing = fail


class Buffered(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(1000)

    def get_buffer(self, size_hint):
        return self.buffer

    def buffer_updated(self, count):
        self.transport.write(self.buffer[:count])


class Client(asyncio.Protocol):
    def __init__(self, expected=5):
        self.received = bytearray()
        self.expected = expected
        loop = asyncio.get_running_loop()
        self.complete, self.lost = loop.create_future(), loop.create_future()

    def data_received(self, data):
        self.received += data
        if len(self.received) >= self.expected and not self.complete.done():
            self.complete.set_result(None)

    def connection_lost(self, error):
        self.lost.set_result(None)


async def talk(server_protocol):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(server_protocol, "127.0.0.1", 0)
    for data in (b"hello", LARGE):
        transport, protocol = await loop.create_connection(
            partial(Client, len(data)), *server.sockets[0].getsockname()
        )
        transport.get_extra_info("socket")
        repr(transport)
        transport.write(data[: len(data) // 2])
        transport.writelines([data[len(data) // 2 :], b""])
        await asyncio.wait([protocol.complete, protocol.lost], return_when="FIRST_COMPLETED")
        transport.close()
        await protocol.lost
    server.close()
    await server.wait_closed()


@scenario
async def protocols():
    await talk(Echo)


@scenario
async def buffered_protocols():
    await talk(Buffered)


@scenario
async def failing_protocols():
    await talk(Fails)


@scenario
async def transports_left_open():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    transport, _ = await loop.create_connection(Client, *server.sockets[0].getsockname())
    transport.write(LARGE)
    await asyncio.sleep(0)
    other, _ = await loop.create_connection(Client, *server.sockets[0].getsockname())
    other.abort()


@scenario
async def streams():
    async def echo(reader, writer):
        writer.write(await reader.readexactly(len(LARGE)))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(LARGE)
    await writer.drain()
    writer.write_eof()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@scenario
async def refused_connections():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    try:
        await loop.create_connection(Client, *address)
    except ConnectionRefusedError:
        pass
    try:
        await loop.create_datagram_endpoint(fail, ("127.0.0.1", 0))
    except ValueError:
        pass


@scenario
async def unix_sockets():
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "socket"))
        server = await loop.create_unix_server(Echo, path)
        transport, protocol = await loop.create_unix_connection(Client, path)
        transport.write(b"hello")
        await protocol.complete
        transport.close()
        await protocol.lost
        server.close()
        await server.wait_closed()


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.received = asyncio.get_running_loop().create_future()

    def datagram_received(self, data, address):
        if not self.received.done():
            self.received.set_result(None)


@scenario
async def datagrams():
    loop = asyncio.get_running_loop()
    server, receiver = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
    address = server.get_extra_info("sockname")
    client, _ = await loop.create_datagram_endpoint(Datagrams, remote_addr=address)
    client.sendto(b"hello")
    server.sendto(b"hello", client.get_extra_info("sockname"))
    await receiver.received
    client.close()
    server.abort()
    await asyncio.sleep(0)


@scenario
async def pipes():
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    transport, protocol = await loop.connect_read_pipe(Client, os.fdopen(reading, "rb", 0))
    out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(writing, "wb", 0))
    out.write(b"hello")
    await protocol.complete
    out.close()
    await protocol.lost
    transport.close()


@scenario
async def subprocesses():
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    await process.communicate(b"hello")


@scenario
async def sendfile():
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryFile() as file:
        file.write(LARGE)
        file.flush()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        transport, _ = await loop.create_connection(Client, *server.sockets[0].getsockname())
        await loop.sendfile(transport, file)
        transport.close()
        server.close()
        await asyncio.sleep(0)


@scenario
async def native_jobs():
    loop = asyncio.get_running_loop()
    data = bytearray(10)
    await asyncio.gather(*(loop.run_native("hl.crc32", data) for _ in range(5)))
    job = loop.run_native("hl.sleep", 10)
    await asyncio.sleep(0)
    job.cancel()
    await asyncio.wait([job])
    try:
        loop.run_native("no.such.kernel")
    except LookupError:
        pass
