"""The objects that a loop hands out have the methods of asyncio's own, with the same parameters."""

import asyncio
import inspect
import os
import socket
from contextlib import AsyncExitStack

import pytest

from hybridloop.loop import streams


async def stream(loop, stack):
    ours, theirs = socket.socketpair()
    stack.callback(theirs.close)
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    return transport


async def server(loop, stack):
    return await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)


async def datagram(loop, stack):
    address = ("127.0.0.1", 0)
    return (await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=address))[0]


async def read_pipe(loop, stack):
    reading, writing = os.pipe()
    stack.callback(os.close, writing)
    return (await loop.connect_read_pipe(asyncio.Protocol, os.fdopen(reading, "rb", 0)))[0]


async def write_pipe(loop, stack):
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    return (await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(writing, "wb", 0)))[0]


async def process(loop, stack):
    ended = loop.create_future()

    class Protocol(asyncio.SubprocessProtocol):
        def process_exited(self):
            ended.set_result(None)

    nothing = dict.fromkeys(("stdin", "stdout", "stderr"))
    transport, _ = await loop.subprocess_exec(Protocol, "true", **nothing)
    await ended
    return transport


async def future(loop, stack):
    return loop.create_future()


async def task(loop, stack):
    made = loop.create_task(asyncio.sleep(0))
    await made
    return made


async def handle(loop, stack):
    return loop.call_soon(int)


async def timer(loop, stack):
    made = loop.call_later(60, int)
    stack.callback(made.cancel)
    return made


MAKERS = (stream, server, datagram, read_pipe, write_pipe, process, future, task, handle, timer)


async def shapes(loop, make):
    """The public methods of an object that ``make`` makes: their parameters by their names."""
    async with AsyncExitStack() as stack:
        thing = await make(loop, stack)
        found = methods(thing)
        if close := getattr(thing, "close", None):
            close()
        # What closing schedules runs within the test.
        for _ in range(3):
            await asyncio.sleep(0)
    return found


def methods(thing):
    found = {}
    for name in dir(thing):
        if not name.startswith("_") and callable(member := getattr(thing, name)):
            found[name] = parameters(member)
    return found


def parameters(function):
    """Without ``self``, which is positional-only in native methods."""
    try:
        found = inspect.signature(function).parameters.values()
    except ValueError:
        # Some of CPython's own builtins have none.
        return None
    return [(each.name, each.kind, each.default) for each in found if each.name != "self"]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_objects_of_the_loop(loop, make):
    stock_loop = asyncio.SelectorEventLoop()
    try:
        stock = stock_loop.run_until_complete(shapes(stock_loop, make))
    finally:
        stock_loop.close()
    ours = loop.run_until_complete(shapes(loop, make))
    assert {name: ours.get(name) for name in stock} == stock


@pytest.mark.parametrize("name", ["StreamReader", "StreamWriter", "StreamReaderProtocol"])
def test_stream_classes(name):
    stock = methods(getattr(asyncio, name))
    ours = methods(getattr(streams, name))
    assert {method: ours.get(method) for method in stock} == stock


@pytest.mark.parametrize(
    "name", ["open_connection", "start_server", "open_unix_connection", "start_unix_server"]
)
def test_stream_functions(name):
    stock = parameters(getattr(asyncio, name))
    assert parameters(getattr(streams, name)) == stock
