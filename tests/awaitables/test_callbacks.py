"""Coroutines of callbacks: what they await, and what their callbacks return."""

import sys
import weakref

import pytest

from .support import Manager, count, fails, finish, gives

pytestmark = pytest.mark.improves_on_asyncio


class Call:
    """One call that takes a result callback and an error callback, with a result to give."""

    def __init__(self, callbacks, kind):
        self.callbacks, self.kind = callbacks, kind
        self.aw = callbacks.new()
        self.seen = []

    def queue(self, callback, error):
        c, aw = self.callbacks, self.aw
        if self.kind == "await":
            c.add_await(aw, gives("result"), callback, error)
        elif self.kind == "defer":
            c.add_defer(aw, lambda aw: callback(aw, None))
        elif self.kind == "with":
            c.add_with(aw, Manager(), callback, error)
        elif self.kind == "for":
            c.add_for(aw, count(1), callback, None, error)
        c.add_await(aw, gives("next"), lambda aw, value: self.seen.append("next"))

    async def run(self, callback, error=None):
        """Queue it, with another await behind; give the names of what was called."""

        def called(aw, value):
            assert aw is self.aw
            self.seen.append("callback")
            return callback

        def failed(aw, exc):
            assert aw is self.aw
            self.seen.append(exc)
            return error() if callable(error) else error

        self.queue(called, failed if error is not None else None)
        await self.aw
        return self.seen


KINDS = ["await", "defer", "with", "for"]
every_kind = pytest.mark.parametrize("kind", KINDS)
with_error_callback = pytest.mark.parametrize("kind", ["await", "with", "for"])


@every_kind
@pytest.mark.parametrize("status", [0, 2, 100])
async def test_a_callback_that_returns_0_or_more_goes_on(loop, callbacks, kind, status):
    """(T2.3)"""
    assert await Call(callbacks, kind).run(status, 0) == ["callback", "next"]


@every_kind
async def test_minus_1_without_an_error_callback_raises(loop, callbacks, kind):
    """(T2.3)"""
    error = LookupError("of the callback")
    call = Call(callbacks, kind)
    with pytest.raises(LookupError) as caught:
        await call.run((-1, error))
    assert caught.value is error
    assert call.seen == ["callback"]


@with_error_callback
async def test_minus_1_goes_to_the_error_callback(loop, callbacks, kind):
    """(T2.3)"""
    error = LookupError("of the callback")
    call = Call(callbacks, kind)
    assert await call.run((-1, error), 0) == ["callback", error, "next"]


@every_kind
@pytest.mark.parametrize("status", [-2, -3])
async def test_minus_2_raises_past_the_error_callback(loop, callbacks, kind, status):
    """(T2.3)"""
    error = LookupError("of the callback")
    call = Call(callbacks, kind)
    with pytest.raises(LookupError) as caught:
        await call.run((status, error), 0)
    assert caught.value is error
    assert call.seen == ["callback"]


@every_kind
@pytest.mark.parametrize("status", [-1, -2])
async def test_an_error_without_an_exception_is_a_system_error(loop, callbacks, kind, status):
    """(T2.3)"""
    call = Call(callbacks, kind)
    with pytest.raises(SystemError, match="error without an exception"):
        await call.run(status, 0)
    assert call.seen == ["callback"]


@every_kind
async def test_a_result_with_an_exception_is_a_system_error(loop, callbacks, kind):
    """(T2.3)"""
    call = Call(callbacks, kind)
    error = LookupError("forgotten")
    with pytest.raises(SystemError, match="an exception is set") as caught:
        await call.run((0, error), 0)
    assert caught.value.__cause__ is error
    assert call.seen == ["callback"]


@with_error_callback
async def test_an_error_callback_that_returns_minus_1_raises_again(loop, callbacks, kind):
    """(T2.3)"""
    error = LookupError("of the callback")
    call = Call(callbacks, kind)
    with pytest.raises(LookupError) as caught:
        await call.run((-1, error), -1)
    assert caught.value is error
    assert call.seen == ["callback", error]


@with_error_callback
async def test_minus_1_with_another_exception_reports_that(loop, callbacks, kind, monkeypatch):
    """(T2.3)"""
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: reported.append(it.exc_value))
    error, other = LookupError("of the callback"), KeyError("another")
    call = Call(callbacks, kind)
    with pytest.raises(LookupError) as caught:
        await call.run((-1, error), (-1, other))
    assert caught.value is error
    assert reported == [other]


@with_error_callback
async def test_minus_1_with_the_same_exception_set(loop, callbacks, kind, monkeypatch):
    """(T2.3)"""
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    error = LookupError("of the callback")
    with pytest.raises(LookupError) as caught:
        await Call(callbacks, kind).run((-1, error), (-1, error))
    assert caught.value is error
    assert reported == []


@with_error_callback
@pytest.mark.parametrize("status", [-2, -100])
async def test_an_error_callback_that_returns_minus_2_raises_another(loop, callbacks, kind, status):
    """(T2.3)"""
    error, other = LookupError("of the callback"), KeyError("another")
    with pytest.raises(KeyError) as caught:
        await Call(callbacks, kind).run((-1, error), (status, other))
    assert caught.value is other
    assert other.__context__ is error


async def test_an_exception_of_an_error_callback_has_one_context(loop, callbacks):
    """As in an `except` block, the exception that is handled is the context (T2.3)."""
    first = LookupError("first")

    def error(aw, exc):
        assert sys.exc_info()[1] is exc
        try:
            raise KeyError("second")
        except KeyError as second:
            return -2, second

    aw = callbacks.new()
    callbacks.add_await(aw, fails(first), None, error)
    with pytest.raises(KeyError) as caught:
        await aw
    assert caught.value.__context__ is first
    assert sys.exc_info()[1] is None


async def test_raising_the_context_again_makes_no_circle(loop, callbacks):
    inner = LookupError("inner")
    outer = KeyError("outer")
    outer.__context__ = inner
    aw = callbacks.new()
    callbacks.add_await(aw, fails(outer), None, lambda aw, exc: (-2, inner))
    with pytest.raises(LookupError) as caught:
        await aw
    assert caught.value is inner
    assert inner.__context__ is outer
    assert outer.__context__ is None


@with_error_callback
@pytest.mark.parametrize("status", [-2, -3])
async def test_an_error_callback_without_an_exception(loop, callbacks, kind, status):
    """(T2.3)"""
    error = LookupError("of the callback")
    with pytest.raises(SystemError, match="error without an exception") as caught:
        await Call(callbacks, kind).run((-1, error), status)
    assert caught.value.__context__ is error


@with_error_callback
async def test_an_error_callback_that_goes_on_with_an_exception_set(loop, callbacks, kind):
    """(T2.3)"""
    other = KeyError("forgotten")
    with pytest.raises(SystemError, match="an exception is set") as caught:
        await Call(callbacks, kind).run((-1, LookupError()), (0, other))
    assert caught.value.__cause__ is other


async def test_an_exception_of_the_awaitable(loop, callbacks):
    error = LookupError("awaited")
    seen = []
    aw = callbacks.new()
    callbacks.add_await(
        aw, fails(error), lambda aw, v: seen.append(v), lambda aw, e: seen.append(e)
    )
    callbacks.add_await(aw, fails(error))
    with pytest.raises(LookupError) as caught:
        await aw
    assert caught.value is error
    assert seen == [error]


async def test_what_callbacks_queue_comes_behind_what_is_queued(loop, callbacks):
    """(T2.3)"""
    seen = []

    def first(aw, value):
        seen.append(value)
        callbacks.add_await(aw, gives(3), lambda aw, v: seen.append(v))
        callbacks.add_defer(aw, lambda aw: seen.append("deferred"))

    aw = callbacks.new()
    callbacks.add_await(aw, gives(1), first)
    callbacks.add_await(aw, gives(2), lambda aw, v: seen.append(v))
    assert await aw is None
    assert seen == [1, 2, 3, "deferred"]


async def test_an_error_callback_may_queue(loop, callbacks):
    """(T2.3)"""
    seen = []

    def retry(aw, exc):
        callbacks.add_await(aw, gives("again"), lambda aw, v: callbacks.set_result(aw, v))

    aw = callbacks.new()
    callbacks.add_await(aw, fails(TimeoutError()), None, retry)
    assert await aw == "again"
    assert seen == []


def test_the_result(callbacks):
    aw = callbacks.new()
    assert finish(aw) is None
    aw = callbacks.new()
    callbacks.set_result(aw, 1)
    callbacks.set_result(aw, (2, 3))
    assert finish(aw) == (2, 3)


def test_an_earlier_result_is_let_go(callbacks):
    class Value:
        pass

    value = Value()
    gone = weakref.ref(value)
    aw = callbacks.new()
    callbacks.set_result(aw, value)
    del value
    callbacks.set_result(aw, None)
    assert gone() is None
    finish(aw)


@pytest.mark.parametrize("name", ["tests.callbacks.coroutine", "native coroutine"])
def test_the_name(callbacks, name):
    aw = callbacks.new_unnamed() if name == "native coroutine" else callbacks.new()
    assert aw.__qualname__ == name
    assert aw.__name__ == name.rsplit(".")[-1]
    aw.close()
