"""Coroutines of callbacks: `async with` and `async for`."""

import asyncio

import pytest

from .support import Manager, count, fails, finish, gives

pytestmark = pytest.mark.improves_on_asyncio


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
