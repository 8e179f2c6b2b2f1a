"""Callbacks of `add_reader()` and `add_writer()` that wait."""

import asyncio
import resource
import socket

import pytest

from hybridloop import await_

pytestmark = pytest.mark.only("hybridloop", "debug")


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def cpu():
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_utime + usage.ru_stime


async def test_a_reader_that_waits_before_it_reads_is_called_once(loop, pair):
    """(T3.14)"""
    ours, theirs = pair
    calls = []

    def readable():
        calls.append("begins")
        await_(asyncio.sleep(0.1))
        calls.append(ours.recv(100))

    loop.add_reader(ours, readable)
    theirs.send(b"one")
    iterations, used = loop.stats().iterations, cpu()
    await asyncio.sleep(0.05)
    assert calls == ["begins"]
    assert loop.stats().iterations - iterations < 20
    assert cpu() - used < 0.04
    await asyncio.sleep(0.1)
    assert calls == ["begins", b"one"]
    theirs.send(b"two")
    await asyncio.sleep(0.15)
    assert calls == ["begins", b"one", "begins", b"two"]
    loop.remove_reader(ours)


async def test_what_comes_while_a_reader_waits_is_reported_later(loop, pair):
    """(T3.14)"""
    ours, theirs = pair
    got = []

    def readable():
        got.append(ours.recv(3))
        await_(asyncio.sleep(0.02))

    loop.add_reader(ours, readable)
    for data in (b"one", b"two", b"six"):
        theirs.send(data)
    await asyncio.sleep(0.15)
    assert got == [b"one", b"two", b"six"]
    loop.remove_reader(ours)


@pytest.mark.parametrize("how", ["removed", "replaced", "closed"])
async def test_a_reader_is_removed_while_it_waits(loop, pair, how):
    """(T3.14)"""
    ours, theirs = pair
    calls = []

    def readable():
        calls.append("begins")
        await_(asyncio.sleep(0.02))
        calls.append("ends")

    def other():
        calls.append(ours.recv(100))

    loop.add_reader(ours, readable)
    theirs.send(b"data")
    await asyncio.sleep(0.005)
    if how == "replaced":
        loop.add_reader(ours, other)
        await asyncio.sleep(0.005)
        assert calls == ["begins", b"data"]
    else:
        assert loop.remove_reader(ours)
    if how == "closed":
        ours.close()
    await asyncio.sleep(0.05)
    assert [call for call in calls if call != b"data"] == ["begins", "ends"]
    if how == "replaced":
        assert loop.remove_reader(ours)


async def test_the_other_direction_goes_on(loop, pair):
    """(T3.14)"""
    ours, theirs = pair
    written = []

    def readable():
        await_(asyncio.sleep(0.05))
        ours.recv(100)

    def writable():
        written.append(1)

    loop.add_reader(ours, readable)
    theirs.send(b"data")
    await asyncio.sleep(0.005)
    loop.add_writer(ours, writable)
    await asyncio.sleep(0.01)
    assert written
    loop.remove_writer(ours)
    await asyncio.sleep(0.06)
    loop.remove_reader(ours)
