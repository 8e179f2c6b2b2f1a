"""`run_until_complete()` and `asyncio.run()` within a loop that runs."""

import asyncio
import sys

import pytest

import hybridloop
from hybridloop import sync


@pytest.fixture
def nested(loop):
    sync.nest(loop)
    yield loop
    sync.unnest(loop)


async def slow(value=None, delay=0.001):
    await asyncio.sleep(delay)
    return value


def run(value=None, delay=0.001):
    return asyncio.get_running_loop().run_until_complete(slow(value, delay))


async def test_it_is_refused_by_default(loop):
    """(T3.21)"""
    coroutine = slow()
    with pytest.raises(RuntimeError, match="^This event loop is already running$"):
        loop.run_until_complete(coroutine)
    coroutine.close()
    coroutine = slow()
    with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
        asyncio.run(coroutine)
    coroutine.close()


async def test_coroutines_futures_and_tasks(nested):
    """(T3.21)"""
    assert run(1) == 1
    future = nested.create_future()
    nested.call_later(0.001, future.set_result, 2)
    assert nested.run_until_complete(future) == 2
    assert nested.run_until_complete(nested.create_task(slow(3))) == 3
    assert asyncio.run(slow(4)) == 4
    with asyncio.Runner() as runner:
        assert runner.run(slow(5)) == 5
    with pytest.raises(ZeroDivisionError):
        asyncio.run(fails())
    task = asyncio.current_task()
    assert task is not None and asyncio.run(current()) is not task


async def current():
    return asyncio.current_task()


async def fails():
    await asyncio.sleep(0)
    return 1 / 0


async def test_it_is_not_last_in_first_out(nested, eventually):
    """(T3.21)"""
    begun, ended = [], []

    async def one(event):
        begun.append(event)
        nested.run_until_complete(event.wait())
        ended.append(event)

    events = [asyncio.Event() for _ in range(3)]
    tasks = [nested.create_task(one(event)) for event in events]
    await eventually(lambda: begun == events)
    order = [events[number] for number in (1, 2, 0)]
    for count, event in enumerate(order, 1):
        event.set()
        await eventually(lambda: len(ended) == count)  # noqa: B023
    await asyncio.gather(*tasks)
    assert ended == order


async def test_sixty_deep_and_300_at_a_time(nested):
    """(T3.21)"""

    def deeper(level):
        async def below():
            await asyncio.sleep(0)
            return deeper(level - 1) + 1

        return 0 if level == 0 else asyncio.run(below())

    async def one(number):
        return run(number)

    assert deeper(60) == 60
    assert await asyncio.gather(*map(one, range(300))) == list(range(300))


async def test_cancellation_reaches_it(nested):
    """(T3.21)"""
    cancelled = []

    async def inner():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    async def one():
        asyncio.run(inner())

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            asyncio.run(inner())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one())
        await asyncio.sleep(0.001)
        task.cancel()
    assert cancelled == [1, 1]


async def test_unnest(nested):
    """(T3.21)"""
    assert run(1) == 1
    sync.unnest(nested)
    await test_it_is_refused_by_default(nested)


def test_all_loops():
    """(T3.21)"""

    async def main():
        return run(1)

    sync.nest()
    try:
        assert hybridloop.run(main()) == 1
        assert asyncio.run(slow(2)) == 2
    finally:
        sync.unnest()


NEST = """
import asyncio, sys, warnings
import {module}
import hybridloop
{before}

async def slow(value):
    await asyncio.sleep(0.001)
    return value

def use():
    loop = asyncio.get_running_loop()
    assert loop.run_until_complete(slow(1)) == 1
    assert asyncio.run(slow(2)) == 2

async def one(event):
    use()
    begun.append(event)
    asyncio.run(event.wait())
    ended.append(event)

async def reaches(events, count):
    async with asyncio.timeout(60):
        while len(events) < count:
            await asyncio.sleep(0.001)

async def main():
    if not before:
        {module}.apply()
    use()
    events = [asyncio.Event() for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        for event in events[:3]:
            group.create_task(one(event))
        await reaches(begun, 3)
        for count, number in enumerate((1, 2, 0), 1):
            events[number].set()
            await reaches(ended, count)
    assert ended == [events[number] for number in (1, 2, 0)]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one(events[3]))
        await reaches(begun, 4)
        task.cancel()
    assert len(ended) == 3

begun, ended, before = [], [], {is_before}
loop = hybridloop.new_event_loop()
asyncio.set_event_loop(loop)
if before:
    {module}.apply(loop)
loop.run_until_complete(main())
loop.close()
loop = hybridloop.new_event_loop()
assert loop.run_until_complete(slow(5)) == 5
loop.close()
assert "run_forever" not in vars(hybridloop.Loop)
"""


@pytest.mark.parametrize("is_before", [False, True], ids=["running", "new"])
@pytest.mark.parametrize("imported", ["before", "late"])
@pytest.mark.parametrize("module", ["nest_asyncio", "nest_asyncio2"])
def test_nest_asyncio(run_program, module, is_before, imported):
    """(T3.22)"""
    pytest.importorskip(module)
    if module == "nest_asyncio" and sys.version_info >= (3, 14):
        pytest.skip("its tasks are unknown to asyncio.current_task() since Python 3.14")
    before = "import hybridloop.sync" if imported == "before" else ""
    run_program(NEST.format(module=module, is_before=is_before, before=before), errors=None)


@pytest.mark.parametrize("module", ["nest_asyncio", "nest_asyncio2"])
def test_nest_asyncio_without_greenlet(run_program, module):
    """(T3.22)"""
    pytest.importorskip(module)
    run_program(
        f"""
import sys
sys.modules["greenlet"] = None
import asyncio, {module}, hybridloop

loop = hybridloop.new_event_loop()
try:
    {module}.apply(loop)
except ValueError as error:
    assert "pip install 'hybridloop[sync]'" in str(error), error
else:
    raise AssertionError
asyncio.Runner
assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1
loop.close()
""",
        errors=None,
    )


def test_a_class_that_nest_asyncio_has_patched_is_not_prepared(run_program):
    """(T3.22)"""
    pytest.importorskip("nest_asyncio2")
    run_program(
        """
import asyncio, nest_asyncio2
from hybridloop import sync

loop = asyncio.SelectorEventLoop()
nest_asyncio2.apply(loop)
try:
    sync.prepare(loop)
except sync.SyncAwaitError as error:
    assert "nest_asyncio" in str(error)
else:
    raise AssertionError
loop.close()
""",
        errors=None,
    )
