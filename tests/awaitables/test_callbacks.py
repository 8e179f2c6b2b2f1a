"""Coroutines of callbacks: what they await, and what their callbacks return."""

import asyncio
import gc
import sys
import weakref

import pytest

from .support import finish

pytestmark = pytest.mark.improves_on_asyncio


async def gives(value):
    await asyncio.sleep(0)
    return value


async def at_once(value):
    return value


async def fails(error):
    raise error


class Manager:
    def __init__(self, suppress=False, enter=None, exit=None):
        self.events = []
        self.suppress = suppress
        self.errors = enter, exit

    async def __aenter__(self):
        await asyncio.sleep(0)
        self.events.append("enter")
        if self.errors[0]:
            raise self.errors[0]
        return "entered"

    async def __aexit__(self, kind, value, traceback):
        await asyncio.sleep(0)
        assert kind is (None if value is None else type(value))
        self.events.append(value)
        if self.errors[1]:
            raise self.errors[1]
        return self.suppress


async def count(n, error=None):
    for i in range(n):
        await asyncio.sleep(0)
        yield i
    if error:
        raise error


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


class TestWith:
    async def test_the_order(self, loop, callbacks):
        """(T2.3)"""
        manager = Manager()
        aw = callbacks.new()

        def body(aw, value):
            manager.events.append(value)
            callbacks.add_await(aw, gives("inside"), lambda aw, v: manager.events.append(v))

        callbacks.add_with(aw, manager, body)
        callbacks.add_defer(aw, lambda aw: manager.events.append("behind"))
        await aw
        assert manager.events == ["enter", "entered", "inside", None, "behind"]

    async def test_blocks_in_blocks(self, loop, callbacks):
        outer, inner = Manager(), Manager()
        events = outer.events = inner.events = []
        aw = callbacks.new()

        def body(aw, value):
            callbacks.add_with(aw, inner, lambda aw, v: events.append("body"))
            callbacks.add_defer(aw, lambda aw: events.append("between"))

        callbacks.add_with(aw, outer, body)
        await aw
        assert events == ["enter", "enter", "body", None, "between", None]

    @pytest.mark.parametrize("where", ["body", "await"])
    @pytest.mark.parametrize("suppress", [True, False])
    async def test_an_exception_of_the_block(self, loop, callbacks, where, suppress):
        """(T2.3)"""
        manager = Manager(suppress)
        error = LookupError("inside")
        seen = []
        aw = callbacks.new()

        def body(aw, value):
            if where == "body":
                return -1, error
            callbacks.add_await(aw, fails(error))
            callbacks.add_await(aw, gives(0), lambda aw, v: seen.append("not reached"))

        callbacks.add_with(aw, manager, body, lambda aw, exc: seen.append(exc))
        callbacks.add_defer(aw, lambda aw: seen.append("behind"))
        await aw
        assert manager.events == ["enter", error]
        assert seen == (["behind"] if suppress else [error, "behind"])

    async def test_without_an_error_callback_it_is_raised(self, loop, callbacks):
        error = LookupError("inside")
        manager = Manager()
        aw = callbacks.new()
        callbacks.add_with(aw, manager, lambda aw, v: (-1, error))
        with pytest.raises(LookupError) as caught:
            await aw
        assert caught.value is error
        assert manager.events == ["enter", error]

    async def test_an_exception_of_enter_does_not_go_to_exit(self, loop, callbacks):
        """(T2.3)"""
        error = LookupError("enter")
        manager = Manager(enter=error)
        seen = []
        aw = callbacks.new()
        callbacks.add_with(aw, manager, None, lambda aw, exc: seen.append(exc))
        await aw
        assert manager.events == ["enter"]
        assert seen == [error]

    @pytest.mark.parametrize("fails", [True, False])
    async def test_an_exception_of_exit(self, loop, callbacks, fails):
        inside, error = LookupError("inside"), KeyError("exit")
        manager = Manager(exit=error)
        seen = []
        aw = callbacks.new()
        body = (lambda aw, v: (-1, inside)) if fails else None
        callbacks.add_with(aw, manager, body, lambda aw, exc: seen.append(exc))
        await aw
        assert seen == [error]
        assert error.__context__ is (inside if fails else None)

    async def test_minus_2_of_the_body_still_goes_to_exit(self, loop, callbacks):
        error = LookupError("inside")
        manager = Manager(suppress=True)
        aw = callbacks.new()
        callbacks.add_with(aw, manager, lambda aw, v: (-2, error), lambda aw, exc: (-2, KeyError()))
        await aw
        assert manager.events == ["enter", error]

    async def test_an_exception_of_an_inner_block_goes_through_all(self, loop, callbacks):
        error = LookupError("inside")
        outer, inner = Manager(), Manager()
        aw = callbacks.new()

        def body(aw, value):
            callbacks.add_with(aw, inner, lambda aw, v: (-1, error))

        callbacks.add_with(aw, outer, body)
        with pytest.raises(LookupError):
            await aw
        assert inner.events == outer.events == ["enter", error]

    def test_what_is_no_context_manager(self, callbacks):
        class OnlyEnter:
            async def __aenter__(self):
                pass

        class OnInstance:
            def __init__(self):
                self.__aenter__ = self.__aexit__ = None

        aw = callbacks.new()
        for manager, missed in [(1, "enter"), (OnlyEnter(), "exit"), (OnInstance(), "enter")]:
            with pytest.raises(TypeError, match=f"missed __a{missed}__ method"):
                callbacks.add_with(aw, manager)
        assert finish(aw) is None

    async def test_cancelled_inside(self, loop, callbacks):
        manager = Manager()
        aw = callbacks.new()
        callbacks.add_with(aw, manager, lambda aw, v: callbacks.add_await(aw, asyncio.sleep(100)))
        task = asyncio.ensure_future(aw)
        while "enter" not in manager.events:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [type(event) for event in manager.events] == [str, asyncio.CancelledError]

    async def test_closed_inside(self, loop, callbacks):
        """What a block has to undo is undone by `close()`, as in a coroutine of Python."""
        events = []

        class AtOnce:
            async def __aenter__(self):
                events.append("enter")

            async def __aexit__(self, kind, value, traceback):
                events.append(kind)

        aw = callbacks.new()
        callbacks.add_with(
            aw,
            AtOnce(),
            lambda aw, v: callbacks.add_await(aw, asyncio.sleep(100)),
            lambda aw, exc: events.append("not called"),
        )
        aw.send(None)
        aw.close()
        assert events == ["enter", GeneratorExit]


class TestFor:
    async def test_items_and_end(self, loop, callbacks):
        """(T2.15)"""
        seen = []
        aw = callbacks.new()
        callbacks.add_for(
            aw, count(3), lambda aw, item: seen.append(item), lambda aw: seen.append("end")
        )
        callbacks.add_defer(aw, lambda aw: seen.append("behind"))
        await aw
        assert seen == [0, 1, 2, "end", "behind"]

    async def test_without_callbacks(self, loop, callbacks):
        aw = callbacks.new()
        callbacks.add_for(aw, count(3))
        assert await aw is None

    async def test_what_a_callback_queues_comes_before_the_next_item(self, loop, callbacks):
        """(T2.15)"""
        seen = []

        def item(aw, value):
            callbacks.add_await(aw, gives(value), lambda aw, v: seen.append(("awaited", v)))
            seen.append(value)

        aw = callbacks.new()
        callbacks.add_for(aw, count(2), item)
        await aw
        assert seen == [0, ("awaited", 0), 1, ("awaited", 1)]

    async def test_break(self, loop, callbacks):
        """What was queued before the `break` is awaited, and `end` is not called (T2.3, T2.15)."""
        seen = []

        def item(aw, value):
            callbacks.add_await(aw, gives(value), lambda aw, v: seen.append(v))
            return value == 1

        aw = callbacks.new()
        items = count(5)
        callbacks.add_for(aw, items, item, lambda aw: seen.append("end"))
        callbacks.add_defer(aw, lambda aw: seen.append("behind"))
        await aw
        assert seen == [0, 1, "behind"]
        assert await anext(items) == 2
        await items.aclose()

    @pytest.mark.parametrize("where", ["iterator", "item", "await"])
    async def test_an_exception_ends_the_loop(self, loop, callbacks, where):
        """(T2.15)"""
        error = LookupError("inside")
        seen = []

        def item(aw, value):
            if where == "item":
                return -1, error
            if where == "await":
                callbacks.add_await(aw, fails(error))

        aw = callbacks.new()
        items = count(1, error if where == "iterator" else None)
        callbacks.add_for(
            aw, items, item, lambda aw: seen.append("end"), lambda aw, exc: seen.append(exc)
        )
        callbacks.add_defer(aw, lambda aw: seen.append("behind"))
        await aw
        await items.aclose()
        assert seen == [error, "behind"]

    async def test_stop_async_iteration_of_a_callback_is_an_error(self, loop, callbacks):
        """(T2.15)"""
        seen = []
        stop = StopAsyncIteration()
        aw = callbacks.new()
        items = count(3)
        callbacks.add_for(
            aw,
            items,
            lambda aw, item: (-1, stop),
            lambda aw: seen.append("end"),
            lambda aw, exc: seen.append(exc),
        )
        await aw
        await items.aclose()
        assert seen == [stop]

    async def test_an_iterator_of_python(self, loop, callbacks):
        """(T2.15)"""

        class Iterator:
            def __init__(self):
                self.left = 3

            def __aiter__(self):
                return self

            async def __anext__(self):
                if self.left == 0:
                    raise StopAsyncIteration
                self.left -= 1
                return self.left

        seen = []
        aw = callbacks.new()
        callbacks.add_for(aw, Iterator(), lambda aw, item: seen.append(item))
        await aw
        assert seen == [2, 1, 0]

    async def test_a_native_iterator(self, loop, callbacks):
        """(T2.15)"""
        import hybridloop

        reader = hybridloop.StreamReader(loop=loop)
        seen = []
        aw = callbacks.new()
        callbacks.add_for(aw, reader, lambda aw, item: seen.append(item))
        loop.call_soon(reader.feed_data, b"one\ntwo\n")
        loop.call_soon(reader.feed_eof)
        await aw
        assert seen == [b"one\n", b"two\n"]

    def test_what_cannot_be_iterated(self, callbacks):
        class NoIterator:
            def __aiter__(self):
                return 1

        class NoAwaitable:
            def __aiter__(self):
                return self

            def __anext__(self):
                return 1

        aw = callbacks.new()
        with pytest.raises(TypeError, match="requires an object with __aiter__ method, got int"):
            callbacks.add_for(aw, 1)
        aw.close()
        for iterable, text in [
            (NoIterator(), "does not implement __anext__: int"),
            (NoAwaitable(), "invalid object from __anext__: int"),
        ]:
            aw = callbacks.new()
            callbacks.add_for(aw, iterable)
            with pytest.raises(TypeError, match=text):
                finish(aw)

    async def test_a_long_loop(self, loop, callbacks):
        async def numbers():
            for i in range(100_000):
                yield i

        total = 0

        def item(aw, value):
            nonlocal total
            total += value

        aw = callbacks.new()
        callbacks.add_for(aw, numbers(), item)
        await aw
        assert total == sum(range(100_000))


class TestArguments:
    def test_null(self, callbacks):
        aw = callbacks.new()
        with pytest.raises(ValueError, match="cannot await NULL"):
            callbacks.add_null(aw)
        error = LookupError("of the call before")
        with pytest.raises(LookupError) as caught:
            callbacks.add_null(aw, error)
        assert caught.value is error
        with pytest.raises(ValueError, match="must not be NULL"):
            callbacks.add_defer(aw, None)
        with pytest.raises(ValueError, match="result is NULL"):
            callbacks.set_result(aw)
        aw.close()

    def test_itself(self, callbacks):
        aw = callbacks.new()
        with pytest.raises(ValueError, match="cannot await itself"):
            callbacks.add_await(aw, aw)
        aw.close()

    @pytest.mark.parametrize("thing", [1, "text", object(), len, (i for i in ())])
    def test_what_cannot_be_awaited(self, callbacks, thing):
        aw = callbacks.new()

        async def python():
            await thing

        with pytest.raises(TypeError) as theirs:
            python().send(None)
        with pytest.raises(TypeError) as ours:
            callbacks.add_await(aw, thing)
        assert str(ours.value) == str(theirs.value)
        aw.close()

    def test_after_the_end(self, callbacks):
        aw = callbacks.new()
        finish(aw)
        for use in (
            lambda: callbacks.add_defer(aw, lambda aw: 0),
            lambda: callbacks.set_result(aw, 1),
            lambda: callbacks.clear(aw),
            lambda: callbacks.values(aw),
            lambda: callbacks.set_state(aw, []),
            lambda: callbacks.state(aw),
        ):
            with pytest.raises(RuntimeError, match="the coroutine has ended"):
                use()

    @pytest.mark.parametrize("other", [1, None, at_once])
    def test_what_is_no_coroutine_of_callbacks(self, callbacks, other):
        with pytest.raises(TypeError, match="expected a native coroutine"):
            callbacks.set_result(other, 1)

    @pytest.mark.parametrize("fault", ["not iterator", "coroutine", "raises", "wrong type"])
    async def test_what_gives_no_iterator(self, loop, callbacks, fault):
        class Awaitable:
            def __await__(self):
                match fault:
                    case "not iterator":
                        return 1
                    case "coroutine":
                        return inner
                    case "raises":
                        raise LookupError("no")
                    case "wrong type":
                        return [1]

        inner = at_once(1)

        async def python():
            await Awaitable()

        ends = []
        aw = callbacks.new()
        callbacks.add_await(aw, Awaitable())
        for coroutine in (aw, python()):
            with pytest.raises((TypeError, LookupError)) as caught:
                await coroutine
            ends.append((caught.type, str(caught.value)))
        assert ends[0] == ends[1]
        inner.close()

    async def test_awaits_a_coroutine_that_is_being_awaited(self, loop, callbacks):
        inner = gives(1)
        aw, other = callbacks.new(), callbacks.new()
        callbacks.add_await(aw, inner)
        callbacks.add_await(other, inner)

        async def outer():
            return await inner

        waits = outer()
        waits.send(None)
        with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
            await aw
        waits.close()
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await other


class TestSaved:
    def test_values(self, callbacks):
        aw = callbacks.new()
        assert callbacks.values(aw) == []
        callbacks.save(aw, 2, "a", "b")
        assert callbacks.values(aw) == ["a", "b"]
        callbacks.set_value(aw, 1, "c")
        assert callbacks.values(aw) == ["a", "c"]
        callbacks.save(aw, 0)
        assert callbacks.values(aw) == []
        aw.close()

    def test_wrong_values(self, callbacks):
        aw = callbacks.new()
        with pytest.raises(ValueError, match="a value to save is NULL"):
            callbacks.save(aw, 2, "a")
        with pytest.raises(ValueError, match="number of values is negative"):
            callbacks.save(aw, -1)
        callbacks.save(aw, 1, "a")
        for index in (-1, 1, sys.maxsize):
            with pytest.raises(IndexError):
                callbacks.set_value(aw, index, "b")
        with pytest.raises(ValueError, match="value is NULL"):
            callbacks.set_value(aw, 0)
        assert callbacks.values(aw) == ["a"]
        aw.close()

    @pytest.mark.parametrize("end", ["return", "error", "close", "drop", "collect", "replace"])
    def test_the_state_is_dropped_once(self, callbacks, end):
        ends = []
        aw = callbacks.new()
        assert callbacks.state(aw) is None
        callbacks.set_state(aw, ends)
        assert callbacks.state(aw) is ends
        match end:
            case "return":
                finish(aw)
            case "error":
                callbacks.add_await(aw, fails(LookupError()))
                with pytest.raises(LookupError):
                    finish(aw)
            case "close":
                aw.close()
            case "drop":
                callbacks.clear(aw)
            case "collect":
                callbacks.clear(aw)
                callbacks.save(aw, 1, aw)
            case "replace":
                callbacks.set_state(aw, [])
                callbacks.clear(aw)
        if end != "replace":
            del aw
            gc.collect()
        assert ends == [1]

    def test_a_cycle_through_the_state(self, callbacks):
        class List(list):
            pass

        ends = List()
        gone = weakref.ref(ends)
        aw = callbacks.new()
        callbacks.clear(aw)
        callbacks.set_state(aw, ends)
        ends.append(aw)
        del aw, ends
        gc.collect()
        assert gone() is None

    @pytest.mark.parametrize("place", ["queue", "block", "result", "value"])
    async def test_cycles_are_collected(self, loop, callbacks, place):
        class Thing:
            async def method(self):
                await asyncio.sleep(100)

        thing = Thing()
        gone = weakref.ref(thing)
        aw = thing.aw = callbacks.new()
        match place:
            case "queue":
                callbacks.add_await(aw, thing.method())
            case "block":
                manager = Manager()
                manager.thing = thing
                callbacks.add_with(aw, manager, lambda aw, v: callbacks.add_await(aw, gives(1)))
                aw.send(None)
                del manager
            case "result":
                callbacks.set_result(aw, thing)
            case "value":
                callbacks.save(aw, 1, thing)
        if place != "block":
            callbacks.add_await(aw, gives(1))
            with pytest.warns(RuntimeWarning, match="never awaited"):
                del thing, aw
                gc.collect()
        else:
            del thing, aw
            gc.collect()
        assert gone() is None


class TestClear:
    async def test_what_is_queued_is_closed(self, loop, callbacks):
        inner = gives(1)
        aw = callbacks.new()
        callbacks.add_await(aw, inner)
        callbacks.clear(aw)
        assert inner.cr_frame is None
        assert await aw is None

    async def test_what_is_awaited_goes_on(self, loop, callbacks):
        seen = []
        aw = callbacks.new()
        callbacks.add_await(aw, gives(1), lambda aw, v: seen.append(v))
        callbacks.add_await(aw, gives(2), lambda aw, v: seen.append(v))
        task = asyncio.ensure_future(aw)
        await asyncio.sleep(0)
        callbacks.clear(aw)
        await task
        assert seen == [1]

    async def test_then_more(self, loop, callbacks):
        seen = []

        def clear(aw, value):
            callbacks.clear(aw)
            callbacks.add_await(aw, gives(3), lambda aw, v: seen.append(v))

        aw = callbacks.new()
        callbacks.add_await(aw, gives(1), clear)
        callbacks.add_await(aw, gives(2), lambda aw, v: seen.append(v))
        await aw
        assert seen == [3]

    async def test_a_block_still_ends(self, loop, callbacks):
        manager = Manager()
        aw = callbacks.new()

        def body(aw, value):
            callbacks.add_await(aw, gives(1), lambda aw, v: manager.events.append(v))
            callbacks.clear(aw)

        callbacks.add_with(aw, manager, body)
        await aw
        assert manager.events == ["enter", None]

    async def test_futures_are_left_alone(self, loop, callbacks):
        future = loop.create_future()
        aw = callbacks.new()
        callbacks.add_await(aw, future)
        callbacks.clear(aw)
        assert not future.cancelled()
        await aw
