"""Callbacks of `add_reader()` and `add_writer()` that wait."""

import asyncio
import socket

import pytest

from hybridloop import await_, sync

pytestmark = pytest.mark.only("hybridloop", "debug")


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def test_a_reader_that_waits_before_it_reads_is_called_once(loop, pair, eventually):
    """(T3.14)"""
    ours, theirs = pair
    calls = []

    def readable():
        calls.append("begins")
        await_(released)
        calls.append(ours.recv(100))

    released = loop.create_future()
    loop.add_reader(ours, readable)
    theirs.send(b"one")
    await eventually(lambda: calls)
    iterations = loop.stats().iterations
    await asyncio.sleep(0.05)
    assert calls == ["begins"]
    assert loop.stats().iterations - iterations < 20
    released.set_result(None)
    await eventually(lambda: calls == ["begins", b"one"])
    theirs.send(b"two")
    await eventually(lambda: calls == ["begins", b"one", "begins", b"two"])
    loop.remove_reader(ours)


async def test_what_comes_while_a_reader_waits_is_reported_later(loop, pair, eventually):
    """(T3.14)"""
    ours, theirs = pair
    got = []

    def readable():
        got.append(ours.recv(3))
        await_(asyncio.sleep(0.02))

    loop.add_reader(ours, readable)
    for data in (b"one", b"two", b"six"):
        theirs.send(data)
    await eventually(lambda: got == [b"one", b"two", b"six"])
    await eventually(lambda: not sync.waiting(loop))
    loop.remove_reader(ours)


@pytest.mark.parametrize("how", ["removed", "replaced", "closed"])
async def test_a_reader_is_removed_while_it_waits(loop, pair, how, eventually):
    """(T3.14)"""
    ours, theirs = pair
    calls, released = [], loop.create_future()

    def readable():
        calls.append("begins")
        await_(released)
        calls.append("ends")

    def other():
        calls.append(ours.recv(100))

    loop.add_reader(ours, readable)
    theirs.send(b"data")
    await eventually(lambda: calls)
    if how == "replaced":
        loop.add_reader(ours, other)
        await eventually(lambda: calls == ["begins", b"data"])
    else:
        assert loop.remove_reader(ours)
    if how == "closed":
        ours.close()
    released.set_result(None)
    await eventually(lambda: calls[-1] == "ends")
    assert [call for call in calls if call != b"data"] == ["begins", "ends"]
    if how == "replaced":
        assert loop.remove_reader(ours)


async def test_the_other_direction_goes_on(loop, pair, eventually):
    """(T3.14)"""
    ours, theirs = pair
    written, released = [], loop.create_future()

    def readable():
        await_(released)
        ours.recv(100)

    def writable():
        written.append(1)

    loop.add_reader(ours, readable)
    theirs.send(b"data")
    await eventually(lambda: sync.waiting(loop))
    loop.add_writer(ours, writable)
    await eventually(lambda: written)
    loop.remove_writer(ours)
    released.set_result(None)
    await eventually(lambda: not sync.waiting(loop))
    loop.remove_reader(ours)
