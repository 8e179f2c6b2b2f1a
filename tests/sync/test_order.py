"""Functions that wait end in the order in which what they wait for ends.

A private method of the loop runs one iteration, as old libraries do it.
"""

import asyncio
import random

import pytest

from hybridloop import await_


async def test_it_is_not_last_in_first_out(loop, eventually):
    """(T3.4)"""
    ended = []

    async def one(event):
        await_(event.wait())
        ended.append(event)

    events = [asyncio.Event() for _ in range(4)]
    tasks = [loop.create_task(one(event)) for event in events]
    await asyncio.sleep(0.001)
    order = [events[number] for number in (1, 3, 2, 0)]
    for count, event in enumerate(order, 1):
        event.set()
        await eventually(lambda: len(ended) == count)  # noqa: B023
    await asyncio.gather(*tasks)
    assert ended == order


async def test_thousands_end_in_any_order(loop):
    """(T3.4)"""
    count = 500 if loop.get_debug() else 5_000
    futures = [loop.create_future() for _ in range(count)]
    ended = []

    async def one(number):
        assert await_(futures[number]) == number
        ended.append(number)

    tasks = [loop.create_task(one(number)) for number in range(count)]
    await asyncio.sleep(0)
    order = list(range(count))
    random.Random(3).shuffle(order)
    for number in order:
        futures[number].set_result(number)
    await asyncio.gather(*tasks)
    assert ended == order


async def test_stacks_take_turns_with_tasks(loop):
    """(T3.4)"""
    seen = []

    async def native(name):
        for _ in range(3):
            seen.append(name)
            await asyncio.sleep(0)

    async def waits(name):
        for _ in range(3):
            seen.append(name)
            await_(asyncio.sleep(0))

    await asyncio.gather(native("a"), waits("b"), native("c"), waits("d"))
    assert seen == ["a", "b", "c", "d"] * 3


async def test_busy_callbacks_do_not_keep_the_loop_from_polling(loop):
    """Iterations that go on late run no more callbacks than the current one. (T3.4)"""
    rounds, ended = 0, asyncio.Event()

    def spin():
        nonlocal rounds
        rounds += 1
        if not ended.is_set():
            loop.call_soon(spin)

    async def one():
        for _ in range(20):
            await_(asyncio.sleep(0))

    for _ in range(10):
        loop.call_soon(spin)
    loop.call_later(0.2, ended.set)
    await asyncio.gather(*(one() for _ in range(50)))
    await asyncio.wait_for(ended.wait(), 30)
    assert rounds > 0


@pytest.mark.only("hybridloop", "debug")
async def test_an_iteration_within_a_callback_returns(loop, eventually):
    """A function goes on in it that waits. The callback does not wait for the next wait."""
    future, seen = loop.create_future(), []

    async def waits():
        await_(future)
        seen.append("waited")

    def callback():
        future.set_result(None)
        while "waited" not in seen:
            loop._run_once()
        seen.append("callback")

    tasks = [loop.create_task(waits()) for _ in range(3)]
    await asyncio.sleep(0)
    loop.call_soon(callback)
    await asyncio.gather(*tasks)
    await eventually(lambda: "callback" in seen)
    assert sorted(seen) == ["callback", "waited", "waited", "waited"]
