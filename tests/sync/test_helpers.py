"""Asynchronous interfaces as ordinary ones, with a loop and without one. (T3.31)"""

import asyncio
import contextlib

import pytest

from hybridloop import sync


async def slow(value=None):
    """Doc."""
    await asyncio.sleep(0.001)
    return value


async def numbers(count):
    try:
        for number in range(count):
            await asyncio.sleep(0.001)
            yield number
    finally:
        await asyncio.sleep(0)
        ended.append(count)


@contextlib.asynccontextmanager
async def manager(swallow=()):
    await asyncio.sleep(0)
    try:
        yield "value"
    except swallow:
        ended.append("swallowed")
    finally:
        await asyncio.sleep(0)
        ended.append("manager")


ended = []


@pytest.fixture(params=["with a loop", "without"])
def call(request, loop):
    """Call an ordinary function, in a task or where no loop runs."""
    ended.clear()

    async def in_a_task(function):
        return function()

    if request.param == "without":
        return lambda function: function()
    return lambda function: loop.run_until_complete(in_a_task(function))


def test_run(call):
    assert call(lambda: sync.run(slow(1))) == 1


def test_run_takes_any_awaitable(call):
    class Awaitable:
        def __await__(self):
            yield from slow().__await__()
            return 2

    assert call(lambda: sync.run(Awaitable())) == 2


def test_synced(call):
    function = sync.synced(slow)
    assert call(lambda: function(3)) == 3
    assert function.__name__ == "slow" and function.__doc__ == "Doc."


def test_iterate(call):
    assert call(lambda: list(sync.iterate(numbers(3)))) == [0, 1, 2]
    assert ended == [3]


def test_iterate_closes_what_is_left(call):
    def first():
        iterator = sync.iterate(numbers(5))
        value = next(iterator)
        iterator.close()
        return value

    assert call(first) == 0 and ended == [5]


def test_entered(call):
    def function():
        with sync.entered(manager()) as value:
            return value

    assert call(function) == "value" and ended == ["manager"]


def test_entered_passes_exceptions(call):
    def function():
        with sync.entered(manager()):
            raise ValueError

    with pytest.raises(ValueError):
        call(function)
    assert ended == ["manager"]


def test_entered_swallows_what_the_manager_swallows(call):
    def function():
        with sync.entered(manager(ValueError)):
            raise ValueError
        return "after"

    assert call(function) == "after" and ended == ["swallowed", "manager"]
