"""Large messages come in objects that data is received into; what was handed over stays."""

import asyncio
import os
import random

import pytest

KIB = 1024
SIZES = [
    *(100 * KIB, 100 * KIB, 100 * KIB),
    *(64 * KIB, 36 * KIB, 64 * KIB, 36 * KIB),
    *(16 * KIB, 16 * KIB - 1, 16 * KIB + 1, 20_000, 100_000),
    *(300 * KIB, 1, 300 * KIB, 256 * KIB, 256 * KIB),
    *(1, 2, 500, 512, 600, 150 * KIB, 300, 150 * KIB, 150 * KIB - 1),
]


class Keeper(asyncio.Protocol):
    """Keeps some of the objects it is given, and a copy of each."""

    def __init__(self):
        self.received = bytearray()
        self.kept = []
        self.calls = 0

    def data_received(self, data):
        self.take(data)

    def take(self, data):
        copy = bytes(bytearray(data))
        assert type(data) is bytes and hash(data) == hash(copy)
        self.received += copy
        self.calls += 1
        if self.calls % 3 == 0:
            self.kept.append((data, copy))

    def check(self, sent):
        assert self.received == sent
        assert self.kept and all(data == copy for data, copy in self.kept)


def messages():
    shuffled = SIZES * 3
    random.Random(1).shuffle(shuffled)
    return [os.urandom(size) for size in SIZES + shuffled]


@pytest.fixture
def sending(loop, make_pair):
    """A stream socket, and what sends to it."""
    ours, theirs = make_pair()
    ours.setblocking(False)
    theirs.setblocking(False)

    async def send(data):
        await loop.sock_sendall(theirs, data)

    yield ours, send
    ours.close()
    theirs.close()


async def test_protocol(loop, sending, eventually):
    ours, send = sending
    transport, protocol = await loop.connect_accepted_socket(Keeper, ours)
    sent = b""
    for message in messages():
        sent += message
        await send(message)
        expected = len(sent)
        await eventually(lambda expected=expected: len(protocol.received) == expected)
    protocol.check(sent)
    transport.abort()


@pytest.mark.parametrize("size", [64 * KIB, 256 * KIB, 1024 * KIB])
async def test_sock_recv(loop, sending, size):
    ours, send = sending
    keeper = Keeper()
    sent = b""
    for message in messages():
        sent += message
        task = asyncio.create_task(send(message))
        while len(keeper.received) < len(sent):
            keeper.take(await loop.sock_recv(ours, size))
        await task
    keeper.check(sent)


async def test_streams_that_take_turns(loop, make_pair, eventually):
    """The object that one has dropped serves another."""
    connections = []
    for _ in range(3):
        ours, theirs = make_pair()
        theirs.setblocking(False)
        connections.append((*await loop.connect_accepted_socket(Keeper, ours), theirs))
    sent = [bytearray() for _ in connections]
    for number, message in enumerate(messages()):
        index = number % len(connections)
        sent[index] += message
        _, protocol, theirs = connections[index]
        await loop.sock_sendall(theirs, message)
        await eventually(lambda index=index, of=protocol: len(of.received) == len(sent[index]))
    for (transport, protocol, theirs), data in zip(connections, sent, strict=True):
        protocol.check(data)
        transport.abort()
        theirs.close()


async def test_the_end_after_large_messages(loop, make_pair):
    ours, theirs = make_pair()
    theirs.setblocking(False)
    ended = loop.create_future()

    class Ending(Keeper):
        def eof_received(self):
            ended.set_result(len(self.received))

    await loop.connect_accepted_socket(Ending, ours)
    with theirs:
        for _ in range(2):
            await loop.sock_sendall(theirs, bytes(100 * KIB))
    assert await asyncio.wait_for(ended, 60) == 200 * KIB


async def test_sock_recv_of_the_end_after_large_messages(loop, make_pair):
    ours, theirs = make_pair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        for _ in range(2):
            await loop.sock_sendall(theirs, bytes(60 * KIB))
            received = 0
            while received < 60 * KIB:
                received += len(await loop.sock_recv(ours, 64 * KIB))
        theirs.close()
        assert await loop.sock_recv(ours, 64 * KIB) == b""
