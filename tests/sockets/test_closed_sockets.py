"""Sockets that are closed while a `sock_*` call waits for them, and numbers that are used again."""

import asyncio
import errno
import socket

import pytest

MUCH = b"s" * (8 << 20)


class Numbered:
    """A socket's methods with a `fileno()` of its own."""

    def __init__(self, sock, fileno):
        self.sock, self.fileno = sock, fileno

    def __getattr__(self, name):
        return getattr(self.sock, name)


async def iterations(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "waiting"])
async def test_what_waits_to_be_sent(loop, pair, next_owner, cancel):
    """Nothing of it reaches the next owner of the number."""
    ours, theirs = pair
    sending = loop.create_task(loop.sock_sendall(ours, MUCH))
    await iterations()
    fd = ours.fileno()
    ours.close()
    if cancel:
        sending.cancel()
    owner, other = next_owner(fd)
    while await loop.sock_recv(theirs, 1 << 20):
        pass
    await iterations()
    with pytest.raises(BlockingIOError):
        other.recv(1)
    sending.cancel()
    await asyncio.wait([sending])
    assert sending.cancelled()
    assert owner.fileno() == fd


@pytest.mark.improves_on_asyncio
async def test_calls_on_the_next_owner(loop, pair, next_owner):
    """asyncio cannot register the number, because something is registered under it."""
    ours, _ = pair
    waiting = [
        loop.create_task(loop.sock_recv(ours, 10)),
        loop.create_task(loop.sock_sendall(ours, MUCH)),
    ]
    await iterations()
    fd = ours.fileno()
    ours.close()
    owner, other = next_owner(fd)
    owner.setblocking(False)
    receiving = loop.create_task(loop.sock_recv(owner, 10))
    await iterations()
    other.send(b"x")
    assert await receiving == b"x"
    with pytest.raises(BlockingIOError):
        other.recv(1)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    other.send(b"y")
    assert await loop.sock_recv(owner, 10) == b"y"


async def test_cancelled_connecting(loop, sockets, next_owner):
    """A socket that is closed while it connects leaves nothing under its number."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    sockets.append(listener)
    while True:
        sock = socket.socket()
        sockets.append(sock)
        sock.setblocking(False)
        connecting = loop.create_task(loop.sock_connect(sock, listener.getsockname()))
        await asyncio.wait([connecting], timeout=0.05)
        if not connecting.done():
            break
    fd = sock.fileno()
    sock.close()
    connecting.cancel()
    await asyncio.wait([connecting])
    assert connecting.cancelled()
    owner, other = next_owner(fd)
    owner.setblocking(False)
    other.send(b"x")
    assert await loop.sock_recv(owner, 10) == b"x"
    assert loop.remove_writer(fd) is False


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (-1, ValueError, "^Invalid file descriptor: -1$"),
        (2**31, OverflowError, "^Python int too large to convert to C int$"),
        ("five", ValueError, "^Invalid file object: 'five'$"),
    ],
)
async def test_objects_with_an_odd_number(loop, unix_pair, number, error, message):
    ours, _ = unix_pair
    with pytest.raises(error, match=message):
        await loop.sock_recv(Numbered(ours, lambda: number), 10)


async def test_objects_whose_number_is_of_no_descriptor(loop, unix_pair):
    ours, _ = unix_pair
    with pytest.raises(OSError) as caught:
        await loop.sock_recv(Numbered(ours, lambda: 2**31 - 1), 10)
    assert caught.value.errno == errno.EBADF


async def test_objects_that_refuse_to_tell_their_number(loop, unix_pair):
    def refuse():
        raise RuntimeError("asked")

    ours, _ = unix_pair
    with pytest.raises(RuntimeError, match="^asked$"):
        await loop.sock_recv(Numbered(ours, refuse), 10)
