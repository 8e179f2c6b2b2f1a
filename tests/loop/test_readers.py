"""`add_reader()`, `add_writer()`: when callbacks are called, replaced and removed."""

import asyncio
import contextvars
import gc
import socket
import weakref

import pytest

from .support import add, drain, fill, remove


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
    """The callback is called in each iteration while there is something to read."""
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


def test_hang_up_wakes_reader_and_writer(loop, socket_pair, iterate):
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
    """Two readers ready in one iteration; the first replaces the second's callback."""
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


def test_removing_another_reader_of_the_same_iteration(loop, socket_pair):
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


def test_removing_inside_the_callback(loop, side, socket_pair, iterate):
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


def test_readers_are_served_while_callbacks_keep_the_loop_busy(loop, socket_pair):
    ours, theirs = socket_pair

    def again():
        loop.call_soon(again)

    loop.call_soon(again)
    loop.add_reader(ours, loop.stop)
    loop.call_later(0.01, theirs.send, b"x")
    loop.run_forever()
    assert ours.recv(10) == b"x"
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


async def test_what_is_ready_when_it_is_added_comes_first(loop, socket_pair):
    """The iteration after `add_reader()` looks for I/O, however busy the loop is."""
    ours, theirs = socket_pair
    theirs.send(b"x")
    for _ in range(50):
        order = []
        loop.add_reader(ours, order.append, "ready")
        loop.call_soon(loop.call_soon, order.append, "scheduled later")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        loop.remove_reader(ours)
        assert order[:1] == ["ready"]
