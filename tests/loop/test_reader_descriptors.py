"""What may be given to `add_reader()` and its kin, and what becomes of it."""

import asyncio
import os
import socket

import pytest

from .support import add, remove


@pytest.mark.parametrize("kind", ["int", "socket", "has fileno"])
def test_kinds_of_file_objects(loop, socket_pair, kind):
    ours, theirs = socket_pair

    class HasFileno:
        def fileno(self):
            return ours.fileno()

    fd = {"int": ours.fileno(), "socket": ours, "has fileno": HasFileno()}[kind]
    loop.add_reader(fd, loop.stop)
    theirs.send(b"x")
    loop.run_forever()
    assert loop.remove_reader(fd) is True


def test_an_fd_may_be_removed_by_another_name(loop, socket_pair):
    ours, _ = socket_pair
    loop.add_reader(ours, int)
    assert loop.remove_reader(ours.fileno()) is True
    loop.add_writer(ours.fileno(), int)
    assert loop.remove_writer(ours) is True


def test_pipes(loop, pipe):
    read_end, write_end = pipe
    seen = []

    def on_readable():
        seen.append(os.read(read_end, 100))
        loop.stop()

    loop.add_reader(read_end, on_readable)
    loop.add_writer(write_end, lambda: (os.write(write_end, b"hi"), loop.remove_writer(write_end)))
    loop.run_forever()
    assert seen == [b"hi"]
    assert loop.remove_reader(read_end)


def test_negative_fd(loop, side):
    with pytest.raises(ValueError, match="^Invalid file descriptor: -1$"):
        add(loop, side, -1, int)
    with pytest.raises(ValueError, match="^Invalid file descriptor: -1$"):
        remove(loop, side, -1)


@pytest.mark.parametrize("thing", [object(), "fd", 1.5, None])
def test_something_without_fileno(loop, side, thing):
    with pytest.raises(ValueError, match="^Invalid file object: "):
        add(loop, side, thing, int)
    with pytest.raises(ValueError, match="^Invalid file object: "):
        remove(loop, side, thing)


def test_closed_fd(loop, side, pipe):
    read_end, _ = pipe
    os.close(read_end)
    with pytest.raises(OSError) as caught:
        add(loop, side, read_end, int)
    assert caught.value.errno == 9
    assert remove(loop, side, read_end) is False


def test_closed_socket(loop, side):
    sock = socket.socket()
    sock.close()
    with pytest.raises(ValueError, match="^Invalid file descriptor: -1$"):
        add(loop, side, sock, int)


def test_regular_file(loop, side, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"data")
    with open(path, "rb") as file:
        with pytest.raises(PermissionError):
            add(loop, side, file, int)
        assert remove(loop, side, file) is False


def test_failed_registration_leaves_nothing_behind(loop, tmp_path, socket_pair):
    """The fd number of a refused file works when a socket gets it later."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    ours, theirs = socket_pair
    with open(path, "rb") as file:
        fd = file.fileno()
        with pytest.raises(PermissionError):
            loop.add_reader(fd, int)
        os.dup2(ours.fileno(), fd)
        loop.add_reader(fd, loop.stop)
        theirs.send(b"x")
        loop.run_forever()
        assert loop.remove_reader(fd)


async def test_fd_of_a_transport_is_off_limits(loop, side, socket_pair):
    ours, _ = socket_pair
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    try:
        for fd in (ours, ours.fileno()):
            with pytest.raises(RuntimeError) as caught:
                add(loop, side, fd, int)
            assert str(caught.value) == (
                f"File descriptor {fd!r} is used by transport {transport!r}"
            )
            with pytest.raises(RuntimeError, match="is used by transport"):
                remove(loop, side, fd)
    finally:
        transport.close()
        await asyncio.sleep(0)


def test_fd_number_used_again_after_close(loop):
    """Remove, close, open: the new socket has the old number and works."""
    for _ in range(10):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            loop.add_reader(ours, loop.stop)
            theirs.send(b"x")
            loop.run_forever()
            loop.remove_reader(ours)


def test_fd_closed_behind_the_loops_back(loop):
    """Closed without remove_reader, then its number comes back: registering it again works."""
    ours, theirs = socket.socketpair()
    fd = ours.fileno()
    loop.add_reader(fd, int)
    ours.close()
    theirs.close()
    loop.remove_reader(fd)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert ours.fileno() == fd
        loop.add_reader(fd, loop.stop)
        theirs.send(b"x")
        loop.run_forever()
        assert loop.remove_reader(fd)


def test_many_fds(loop, run_until):
    pairs = [socket.socketpair() for _ in range(200)]
    seen = set()

    def on_readable(number, sock):
        sock.recv(10)
        seen.add(number)

    for number, (ours, _) in enumerate(pairs):
        loop.add_reader(ours, on_readable, number, ours)
    for _, theirs in pairs:
        theirs.send(b"x")
    run_until(lambda: len(seen) == 200)
    for ours, theirs in pairs:
        assert loop.remove_reader(ours)
        ours.close()
        theirs.close()


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="eventfd is Linux only")
def test_eventfd(loop):
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        loop.add_reader(fd, lambda: (os.eventfd_read(fd), loop.stop()))
        loop.call_soon(os.eventfd_write, fd, 1)
        loop.run_forever()
        assert loop.remove_reader(fd)
    finally:
        os.close(fd)


def test_listening_socket(loop):
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        listener.setblocking(False)
        loop.add_reader(listener, loop.stop)
        with socket.create_connection(listener.getsockname()):
            loop.run_forever()
            listener.accept()[0].close()
        loop.remove_reader(listener)
