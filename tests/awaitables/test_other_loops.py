"""Coroutines of callbacks on event loops of other implementations."""

import asyncio

import pytest
import trio
import uvloop

import hybridloop

pytestmark = pytest.mark.improves_on_asyncio

FACTORIES = {
    "hybridloop": hybridloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.mark.parametrize("name", FACTORIES)
def test_loops_of_asyncio(callbacks, name):
    """(T2.11)"""

    async def main():
        seen = []
        aw = callbacks.new()
        callbacks.add_await(aw, asyncio.sleep(0.001, "slept"), lambda aw, v: seen.append(v))
        await aw
        aw = callbacks.new()
        callbacks.add_await(aw, asyncio.sleep(100), None, lambda aw, e: seen.append(type(e)) or -1)
        task = asyncio.ensure_future(aw)
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.001)
        return seen

    with asyncio.Runner(loop_factory=FACTORIES[name]) as runner:
        assert runner.run(main()) == ["slept", asyncio.CancelledError]


def test_trio(callbacks):
    """(T2.11)"""
    seen = []

    async def inner():
        try:
            await trio.sleep_forever()
        finally:
            seen.append("finally")

    async def main():
        aw = callbacks.new()
        callbacks.add_await(aw, trio.sleep(0.001))
        callbacks.add_await(aw, trio.lowlevel.checkpoint(), lambda aw, v: seen.append(v))
        await aw
        with trio.move_on_after(0.01) as scope:
            aw = callbacks.new()
            callbacks.add_await(aw, inner(), None, lambda aw, e: seen.append(type(e)) or -1)
            await aw
        assert scope.cancelled_caught
        # As the coroutine of a task.
        async with trio.open_nursery() as nursery:
            aw = callbacks.new()
            callbacks.add_await(aw, trio.sleep(0.001), lambda aw, v: seen.append("task"))
            nursery.start_soon(lambda: aw)

    trio.run(main)
    assert seen == [None, "finally", trio.Cancelled, "task"]
