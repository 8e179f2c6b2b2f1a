"""Arguments of `add_reader()` and related methods; the private selector shows registrations."""

import asyncio
import errno
import gc
import os
import resource
import selectors
import socket
import weakref

import pytest

from .support import METHODS, add, remove

PRIVATE = {
    "reader": ("_add_reader", "_remove_reader"),
    "writer": ("_add_writer", "_remove_writer"),
}


class Answering:
    """A file object whose `fileno()` returns or raises a given object."""

    def __init__(self, answer):
        self.answer = answer

    def fileno(self):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def both(loop, side):
    """Adding a callback for a file, and removing it."""
    return lambda file: add(loop, side, file, int), lambda file: remove(loop, side, file)


@pytest.fixture
def high_limit():
    """The highest number that descriptors may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = min(hard, 200_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    yield highest
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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


@pytest.mark.parametrize("wrong", ["five", None, AttributeError(), TypeError(), ValueError()])
def test_fileno_that_gives_no_number(loop, side, wrong):
    for call in (
        lambda thing: add(loop, side, thing, int),
        lambda thing: remove(loop, side, thing),
    ):
        with pytest.raises(ValueError, match="^Invalid file object: <.*Answering object"):
            call(Answering(wrong))


@pytest.mark.parametrize("error", [OSError, RuntimeError, KeyboardInterrupt, OverflowError])
def test_other_errors_of_fileno(loop, side, error):
    for call in (
        lambda thing: add(loop, side, thing, int),
        lambda thing: remove(loop, side, thing),
    ):
        with pytest.raises(error, match="^asked$"):
            call(Answering(error("asked")))


def test_fileno_that_gives_a_negative_number(loop, side):
    for call in (
        lambda thing: add(loop, side, thing, int),
        lambda thing: remove(loop, side, thing),
    ):
        with pytest.raises(ValueError, match="^Invalid file descriptor: -7$"):
            call(Answering(-7))


@pytest.mark.parametrize("kind", [str, lambda fd: fd + 0.5], ids=["str", "float"])
def test_fileno_that_gives_something_int_takes(loop, side, socket_pair, kind):
    ours, _ = socket_pair
    add(loop, side, Answering(kind(ours.fileno())), int)
    assert remove(loop, side, ours) is True


@pytest.mark.parametrize("number", [2**31, 2**40, 10**30])
def test_number_that_no_descriptor_has(loop, side, number):
    for file in (number, Answering(number)):
        with pytest.raises(OverflowError, match="^Python int too large to convert to C int$"):
            add(loop, side, file, int)
        assert remove(loop, side, file) is False


def test_high_number(loop, high_limit, socket_pair):
    """A descriptor whose number was chosen by the program."""
    ours, theirs = socket_pair
    fd = os.dup2(ours.fileno(), high_limit - 1)
    with socket.socket(fileno=fd) as high:
        loop.add_reader(high, loop.stop)
        theirs.send(b"x")
        loop.run_forever()
        assert loop.remove_reader(fd) is True
        assert loop.remove_reader(fd) is False
        high.setblocking(False)
        assert loop.run_until_complete(loop.sock_recv(high, 10)) == b"x"
        receiving = loop.create_task(loop.sock_recv(high, 10))
        loop.call_later(0.01, theirs.send, b"y")
        assert loop.run_until_complete(receiving) == b"y"


@pytest.mark.parametrize("methods", [*METHODS.values(), *PRIVATE.values()])
@pytest.mark.parametrize("kind", ["socket", "has fileno"])
def test_file_closed_while_it_is_watched(loop, socket_pair, kind, methods):
    """It is found by the object, once."""
    ours, _ = socket_pair
    file = ours if kind == "socket" else Answering(ours.fileno())
    add(loop, methods, file, int)
    ours.close()
    if kind == "has fileno":
        file.answer = -1
    assert remove(loop, methods, file) is True
    with pytest.raises(ValueError, match="^Invalid file descriptor: -1$"):
        remove(loop, methods, file)


@pytest.mark.parametrize("methods", PRIVATE.values())
def test_file_that_refuses_to_tell_its_number_when_it_is_closed(loop, methods):
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "wb") as file:
        add(loop, methods, file, int)
        file.close()
        assert remove(loop, methods, file) is True
        with pytest.raises(ValueError, match="^Invalid file object: "):
            remove(loop, methods, file)


def test_closed_file_whose_number_was_given(loop, side, socket_pair):
    ours, _ = socket_pair
    fd = ours.fileno()
    add(loop, side, fd, int)
    ours.close()
    with pytest.raises(ValueError, match="^Invalid file descriptor: -1$"):
        remove(loop, side, ours)
    assert remove(loop, side, fd) is True


def test_new_callback_for_a_closed_file(loop, side, socket_pair):
    """It takes the place of the old one. More is refused, and ends the watch."""
    ours, _ = socket_pair
    other = METHODS["writer" if side == METHODS["reader"] else "reader"]
    add(loop, side, ours, int)
    ours.close()
    add(loop, side, ours, str)
    with pytest.raises(OSError) as caught:
        add(loop, other, ours, int)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(ValueError, match="^Invalid file descriptor: -1$"):
        remove(loop, side, ours)


def test_number_of_a_closed_file_that_is_used_again(loop, socket_pair, pipe, run_until):
    """What is added or removed for the closed one does not watch the file that has the number."""
    ours, _ = socket_pair
    fd = ours.fileno()
    calls = []
    loop.add_reader(ours, int)
    loop.add_writer(ours, calls.append, "called")
    ours.close()
    os.dup2(pipe[1], fd)
    try:
        with pytest.raises(OSError):
            loop.remove_reader(ours)
        for _ in range(3):
            loop.call_soon(loop.stop)
            loop.run_forever()
        loop.add_reader(fd, int)
        loop.remove_reader(fd)
        assert calls == []
    finally:
        os.close(fd)


@pytest.mark.improves_on_asyncio
def test_next_owner_of_a_number_is_watched(loop, socket_pair, pipe):
    """asyncio goes on waiting for the file that was closed."""
    ours, theirs = socket_pair
    with socket.socket(fileno=os.dup(theirs.fileno())) as closed:
        fd = closed.fileno()
        loop.add_reader(closed, int)
        loop.add_writer(closed, int)
    os.dup2(ours.fileno(), fd)
    with socket.socket(fileno=fd) as owner:
        loop.add_reader(owner, loop.stop)
        theirs.send(b"x")
        loop.run_forever()
        assert loop.remove_writer(owner) is False
        assert loop.remove_reader(owner) is True


def test_watched_file_is_kept(loop, side):
    ours, theirs = socket.socketpair()
    with theirs:
        fd, alive = ours.fileno(), weakref.ref(ours)
        add(loop, side, ours, int)
        del ours
        gc.collect()
        assert alive() is not None
        alive().close()
        assert remove(loop, side, alive()) is True
        gc.collect()
        assert alive() is None
        assert remove(loop, side, fd) is False


def test_keys_of_the_selector(loop, socket_pair):
    ours, theirs = socket_pair
    fd = ours.fileno()
    loop.add_reader(ours, int)
    for file in (ours, fd):
        key = loop._selector.get_key(file)
        assert (key.fileobj, key.fd, key.events) == (ours, fd, selectors.EVENT_READ)
        assert key.data[0] is not None
        assert key.data[1] is None
    loop.add_writer(fd, int)
    key = loop._selector.get_key(fd)
    assert key.events == selectors.EVENT_READ | selectors.EVENT_WRITE
    loop.remove_writer(fd)
    ours.close()
    key = loop._selector.get_key(ours)
    assert (key.fileobj, key.fd, key.events) == (ours, fd, selectors.EVENT_READ)
    for unknown in (theirs, theirs.fileno(), 2**40):
        with pytest.raises(KeyError, match="is not registered"):
            loop._selector.get_key(unknown)
    loop.remove_reader(fd)
    with pytest.raises(ValueError, match="^Invalid file descriptor: -1$"):
        loop._selector.get_key(ours)


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
            assert ours.recv(10) == b"x"
            loop.remove_reader(ours)


def test_fd_closed_behind_the_loops_back(loop, next_owner):
    """Closed without remove_reader, then its number comes back: registering it again works."""
    ours, theirs = socket.socketpair()
    fd = ours.fileno()
    loop.add_reader(fd, int)
    ours.close()
    theirs.close()
    loop.remove_reader(fd)
    _, theirs = next_owner(fd)
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
            accepted, _ = listener.accept()
            accepted.close()
        assert loop.remove_reader(listener)
