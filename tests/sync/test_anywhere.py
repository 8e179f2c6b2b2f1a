"""Where an ordinary function may be called that waits: everywhere."""

import asyncio
import functools
import json
import re

import pytest

from hybridloop import await_


async def slow(value, delay=0.001):
    await asyncio.sleep(delay)
    return value


def wait(value):
    return await_(slow(value))


class Thing:
    def __init__(self, value=1):
        self.value = wait(value)

    @property
    def text(self):
        return wait(f"text {self.value}")

    def __getitem__(self, key):
        return wait(key * 2)

    def __eq__(self, other):
        return wait(self.value == other.value)

    def __hash__(self):
        return wait(7)

    def __str__(self):
        return wait("a thing")

    def __lt__(self, other):
        return wait(self.value < other.value)

    def __enter__(self):
        return wait("entered")

    def __exit__(self, *exc):
        return wait(True)

    def __iter__(self):
        yield wait(1)
        yield wait(2)

    def __del__(self):
        ended.append(wait(self.value))


ended = []


def entered():
    with Thing() as value:
        raise ValueError
    return value


def returned_directly():
    return await_(slow("direct"))


CALLS = {
    "return": (returned_directly, "direct"),
    "property": (lambda: Thing(3).text, "text 3"),
    "init": (lambda: Thing(4).value, 4),
    "getitem": (lambda: Thing()[21], 42),
    "eq": (lambda: Thing(5) == Thing(5), True),
    "hash": (lambda: {Thing(6): "found"}[Thing(6)], "found"),
    "str": (lambda: str(Thing()), "a thing"),
    "with": (entered, "entered"),
    "sorted by lt": (lambda: [it.value for it in sorted([Thing(2), Thing(1)])], [1, 2]),
    "key": (lambda: sorted([1, 2, 3], key=lambda it: wait(-it)), [3, 2, 1]),
    "map": (lambda: list(map(wait, range(3))), [0, 1, 2]),
    "reduce": (lambda: functools.reduce(lambda a, b: wait(a + b), range(4)), 6),
    "re.sub": (lambda: re.sub("a", lambda match: wait("b"), "banana"), "bbnbnb"),
    "json": (lambda: json.loads('{"a": 1}', object_hook=wait), {"a": 1}),
    "json default": (lambda: json.dumps(object(), default=lambda it: wait("x")), '"x"'),
    "generator": (lambda: list(Thing()), [1, 2]),
    "comprehension": (lambda: [wait(it) for it in range(3)], [0, 1, 2]),
    "lru_cache": (functools.lru_cache(lambda: wait("cached")), "cached"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_any_function_may_call_it(loop, name):
    """(T3.3)"""
    function, expected = CALLS[name]

    async def in_a_task():
        return function()

    ticks = []

    async def other():
        while True:
            ticks.append(1)
            await asyncio.sleep(0)

    task = loop.create_task(other())
    try:
        assert function() == expected
        assert await asyncio.gather(*(in_a_task() for _ in range(5))) == [expected] * 5
        assert ticks
    finally:
        task.cancel()


async def test_destructors_wait_too(loop):
    """(T3.3)"""
    ended.clear()
    thing = Thing(9)
    del thing
    assert ended == [9]


async def test_fifty_calls_within_each_other(loop):
    """(T3.3)"""

    def deeper(level):
        async def below():
            await asyncio.sleep(0)
            return deeper(level - 1) + 1

        return 0 if level == 0 else await_(below())

    assert deeper(50) == 50
    assert await asyncio.gather(*(asyncio.to_thread(int, "1"), in_task(deeper, 50))) == [1, 50]


async def in_task(function, *args):
    await asyncio.sleep(0)
    return function(*args)


async def test_a_generator_is_resumed_by_another_task(loop):
    """(T3.3)"""

    def numbers():
        for number in range(4):
            yield wait(number)

    generator = numbers()

    async def take():
        return next(generator)

    assert [await loop.create_task(take()) for _ in range(4)] == [0, 1, 2, 3]


async def test_asynchronous_generators(loop):
    """(T3.3)"""

    async def numbers():
        for number in range(3):
            await asyncio.sleep(0)
            yield wait(number)

    assert [number async for number in numbers()] == [0, 1, 2]
