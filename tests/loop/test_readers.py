"""add_reader and add_writer: level-triggered, any file object, asyncio's errors."""

import asyncio
import contextvars
import gc
import os
import socket
import weakref

import pytest

METHODS = {
    "reader": ("add_reader", "remove_reader"),
    "writer": ("add_writer", "remove_writer"),
}


@pytest.fixture(params=METHODS)
def side(request):
    return METHODS[request.param]


def add(loop, side, *args):
    return getattr(loop, side[0])(*args)


def remove(loop, side, fd):
    return getattr(loop, side[1])(fd)


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    yield read_end, write_end
    for fd in (read_end, write_end):
        try:
            os.close(fd)
        except OSError:
            pass


def fill(sock):
    """Write until the kernel's buffer is full."""
    total = 0
    while True:
        try:
            total += sock.send(b"x" * 65536)
        except BlockingIOError:
            return total


def drain(sock):
    total = 0
    while True:
        try:
            total += len(sock.recv(65536))
        except BlockingIOError:
            return total


def test_reader_is_called_when_data_arrives(loop, socket_pair):
    ours, theirs = socket_pair
    received = []

    def on_readable(*args):
        received.append((args, ours.recv(10)))
        loop.stop()

    loop.add_reader(ours, on_readable, 1, "two")
    loop.call_later(0.01, theirs.send, b"data")
    loop.run_forever()
    assert received == [((1, "two"), b"data")]
    assert loop.remove_reader(ours)


def test_reader_is_level_triggered(loop, socket_pair):
    """The callback comes again, turn after turn, while there is something to read."""
    ours, theirs = socket_pair
    theirs.send(b"abc")
    pieces = []

    def on_readable():
        if len(pieces) < 10:
            pieces.append(b"")
        else:
            pieces.append(ours.recv(1))
            if pieces[-1] == b"c":
                loop.stop()

    loop.add_reader(ours, on_readable)
    loop.run_forever()
    assert pieces == [b""] * 10 + [b"a", b"b", b"c"]
    loop.remove_reader(ours)


def test_reader_sleeps_when_everything_is_read(loop, socket_pair):
    ours, theirs = socket_pair
    calls = []

    def on_readable():
        calls.append(ours.recv(100))

    loop.add_reader(ours, on_readable)
    theirs.send(b"one")
    loop.call_later(0.03, loop.stop)
    loop.run_forever()
    assert calls == [b"one"]
    loop.remove_reader(ours)


def test_writer_is_level_triggered(loop, socket_pair):
    ours, _ = socket_pair
    calls = []

    def on_writable():
        calls.append(1)
        if len(calls) == 20:
            loop.stop()

    loop.add_writer(ours, on_writable)
    loop.run_forever()
    assert len(calls) == 20
    loop.remove_writer(ours)


def test_writer_waits_for_room(loop, socket_pair):
    ours, theirs = socket_pair
    fill(ours)
    calls = []
    loop.add_writer(ours, lambda: (calls.append(1), loop.stop()))
    loop.call_later(0.02, lambda: (calls.append("drained"), drain(theirs)))
    loop.run_forever()
    assert calls[0] == "drained"
    assert 1 in calls
    loop.remove_writer(ours)


def test_end_of_stream_makes_readable(loop, socket_pair):
    ours, theirs = socket_pair
    loop.add_reader(ours, loop.stop)
    theirs.shutdown(socket.SHUT_WR)
    loop.run_forever()
    assert ours.recv(1) == b""
    loop.remove_reader(ours)


def test_hang_up_wakes_reader_and_writer(loop, socket_pair, turn):
    ours, theirs = socket_pair
    fill(ours)
    seen = set()
    loop.add_reader(ours, seen.add, "reader")
    loop.add_writer(ours, seen.add, "writer")
    theirs.close()
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert seen == {"reader", "writer"}
    loop.remove_reader(ours)
    loop.remove_writer(ours)


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


def test_return_values(loop, side, socket_pair):
    ours, _ = socket_pair
    assert remove(loop, side, ours) is False
    assert add(loop, side, ours, int) is None
    assert remove(loop, side, ours) is True
    assert remove(loop, side, ours) is False


def test_sides_are_independent(loop, socket_pair):
    ours, _ = socket_pair
    loop.add_reader(ours, int)
    assert loop.remove_writer(ours) is False
    loop.add_writer(ours, int)
    assert loop.remove_reader(ours) is True
    assert loop.remove_writer(ours) is True


def test_both_directions_on_one_fd(loop, socket_pair):
    ours, theirs = socket_pair
    events = []

    def on_readable():
        events.append(("read", ours.recv(10)))
        loop.add_writer(ours, on_writable)

    def on_writable():
        events.append("write")
        loop.remove_writer(ours)
        ours.send(b"answer")
        loop.stop()

    loop.add_reader(ours, on_readable)
    theirs.send(b"question")
    loop.run_forever()
    assert events == [("read", b"question"), "write"]
    assert theirs.recv(10) == b"answer"
    theirs.send(b"again")
    loop.run_forever()
    assert events[2:] == [("read", b"again"), "write"]
    loop.remove_reader(ours)


def test_replacing(loop, side, socket_pair):
    ours, theirs = socket_pair
    seen = []
    add(loop, side, ours, seen.append, "old")
    add(loop, side, ours, lambda: (seen.append("new"), loop.stop()))
    theirs.send(b"x")
    loop.run_forever()
    assert set(seen) == {"new"}
    assert remove(loop, side, ours) is True


def test_replacing_while_an_event_is_pending(loop, socket_pair):
    """Two readers ready in one turn; the first replaces the second's callback."""
    ours, theirs = socket_pair
    other, other_peer = socket.socketpair()
    with other, other_peer:
        seen = []

        def first(mine, yours):
            seen.append("first")
            loop.remove_reader(mine)
            loop.add_reader(yours, lambda: (seen.append("replacement"), loop.stop()))

        loop.add_reader(ours, first, ours, other)
        loop.add_reader(other, first, other, ours)
        theirs.send(b"x")
        other_peer.send(b"x")
        loop.run_forever()
        assert seen == ["first", "replacement"]
        loop.remove_reader(ours)
        loop.remove_reader(other)


def test_removing_another_reader_of_the_same_turn(loop, socket_pair):
    ours, theirs = socket_pair
    other, other_peer = socket.socketpair()
    with other, other_peer:
        seen = []

        def on_readable(mine):
            seen.append(mine)
            loop.remove_reader(ours)
            loop.remove_reader(other)
            loop.call_soon(loop.stop)

        loop.add_reader(ours, on_readable, ours)
        loop.add_reader(other, on_readable, other)
        theirs.send(b"x")
        other_peer.send(b"x")
        loop.run_forever()
        assert len(seen) == 1


def test_removing_inside_the_callback(loop, side, socket_pair, turn):
    ours, theirs = socket_pair
    results = []
    add(loop, side, ours, lambda: results.append(remove(loop, side, ours)))
    theirs.send(b"x")
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert results == [True]


def test_error_in_a_callback_is_reported_each_time(loop, socket_pair, unhandled):
    ours, theirs = socket_pair

    def fail():
        if len(unhandled) == 2:
            loop.remove_reader(ours)
            loop.stop()
        raise ValueError("boom")

    loop.add_reader(ours, fail)
    theirs.send(b"x")
    loop.run_forever()
    assert len(unhandled) == 3
    assert {type(context["exception"]) for context in unhandled} == {ValueError}
    assert all(isinstance(context["handle"], asyncio.Handle) for context in unhandled)


def test_callback_context(loop, socket_pair):
    ours, theirs = socket_pair
    var = contextvars.ContextVar("var", default="unset")
    var.set("at add_reader")
    seen = []
    loop.add_reader(ours, lambda: (seen.append(var.get()), loop.stop()))
    var.set("later")
    theirs.send(b"x")
    loop.run_forever()
    loop.remove_reader(ours)
    assert seen == ["at add_reader"]


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


def test_closed_loop(loop, side, socket_pair):
    ours, _ = socket_pair
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        add(loop, side, ours, int)
    assert remove(loop, side, ours) is False


def test_closing_the_loop_with_registrations(loop, socket_pair):
    class Payload:
        def callback(self):
            pass

    ours, _ = socket_pair
    payload = Payload()
    reference = weakref.ref(payload)
    loop.add_reader(ours, payload.callback)
    loop.add_writer(ours, payload.callback)
    loop.close()
    del payload
    gc.collect()
    assert reference() is None
    assert ours.fileno() != -1


def test_removal_drops_the_callback(loop, side, socket_pair):
    class Payload:
        def callback(self):
            pass

    ours, _ = socket_pair
    payload = Payload()
    reference = weakref.ref(payload)
    add(loop, side, ours, payload.callback)
    del payload
    assert reference() is not None
    remove(loop, side, ours)
    assert reference() is None


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


def test_readers_are_served_while_callbacks_keep_the_loop_busy(loop, socket_pair):
    ours, theirs = socket_pair

    def again():
        loop.call_soon(again)

    loop.call_soon(again)
    loop.add_reader(ours, loop.stop)
    loop.call_later(0.01, theirs.send, b"x")
    loop.run_forever()
    loop.remove_reader(ours)


def test_registering_from_the_callback_of_another_fd(loop, socket_pair):
    ours, theirs = socket_pair
    other, other_peer = socket.socketpair()
    with other, other_peer:

        def first():
            loop.remove_reader(ours)
            loop.add_reader(other, loop.stop)
            other_peer.send(b"x")

        loop.add_reader(ours, first)
        theirs.send(b"x")
        loop.run_forever()
        assert loop.remove_reader(other)


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
