"""A program whose system calls fail; prints what its protocols saw.

usage: injected.py MODULE CASE
"""

import asyncio
import gc
import importlib
import os
import socket
import sys

loop = importlib.import_module(sys.argv[1]).new_event_loop()
seen = []
loop.set_exception_handler(lambda _, context: seen.append(("handler", repr(context["exception"]))))


class Stream(asyncio.Protocol):
    def connection_made(self, transport):
        seen.append("made")

    def data_received(self, data):
        seen.append(data)

    def connection_lost(self, exc):
        seen.append(("lost", repr(exc)))


class Datagrams(asyncio.DatagramProtocol):
    def datagram_received(self, data, addr):
        seen.append(data)

    def error_received(self, exc):
        seen.append(("error", repr(exc)))

    def connection_lost(self, exc):
        seen.append(("lost", repr(exc)))


async def until(condition):
    deadline = loop.time() + 60
    while not condition():
        assert loop.time() < deadline, seen
        await asyncio.sleep(0.001)


def lost(count=1):
    return lambda: str(seen).count("lost") == count


async def connected():
    ours, theirs = socket.socketpair()
    transport, _ = await loop.connect_accepted_socket(Stream, ours)
    return transport, theirs


async def stream_write():
    transport, peer = await connected()
    transport.write(b"hello")
    await until(lost())
    peer.close()


async def stream_read():
    transport, peer = await connected()
    os.write(peer.fileno(), b"hello")
    await until(lambda: len(seen) > 1)
    transport.abort()
    await until(lost())
    peer.close()


async def registering():
    transport, peer = await connected()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    transport.abort()
    await until(lost())
    peer.close()


async def datagrams():
    transport, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
    address = transport.get_extra_info("sockname")
    transport.sendto(b"one", address)
    transport.sendto(b"two", address)
    await until(lambda: b"two" in seen)
    transport.abort()
    await until(lost())


async def accepting():
    asyncio.constants.ACCEPT_RETRY_DELAY = 0.02
    server = await loop.create_server(Stream, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clients = [socket.create_connection(address) for _ in range(3)]
    await until(lambda: seen.count("made") == 3)
    for client in clients:
        client.close()
    await until(lost(3))
    server.close()
    await server.wait_closed()


async def sock_methods():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    os.write(theirs.fileno(), b"answer")
    for call in (lambda: loop.sock_sendall(ours, b"hello"), lambda: loop.sock_recv(ours, 10)):
        try:
            seen.append(await call())
        except OSError as error:
            seen.append(repr(error))
    ours.close()
    theirs.close()


def count_fds():
    return len(os.listdir("/proc/self/fd"))


# What is made with the first iteration is there.
loop.run_until_complete(asyncio.sleep(0))
before = count_fds()
loop.run_until_complete(globals()[sys.argv[2]]())
gc.collect()
seen.append(("fds left", count_fds() - before))
loop.close()
print(seen)
