"""Coroutines of callbacks: wrong arguments, saved values, and what is cleared."""

import asyncio
import gc
import sys
import weakref

import pytest

from .support import Manager, at_once, fails, finish, gives

pytestmark = pytest.mark.improves_on_asyncio


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
