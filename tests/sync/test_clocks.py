"""Waiting is no work: debug mode and the counters.

The handle that debug mode names is in a private attribute of the loop.
"""

import asyncio
import time

import pytest

from hybridloop import await_

pytestmark = pytest.mark.only("hybridloop", "debug")


async def test_a_wait_is_no_slow_callback(loop, caplog, eventually, asyncio_log):
    """(T3.16)"""
    # A busy machine may hold up any callback: then the wait has to be longer.
    for delay in (0.2, 2, 20):
        loop.slow_callback_duration = delay * 3 / 4
        caplog.clear()
        handles = []

        def callback(handles=handles, delay=delay):
            handles.append(loop._current_handle)
            await_(asyncio.sleep(delay))
            handles.append(loop._current_handle)

        async def one(delay=delay):
            await_(asyncio.sleep(delay))

        loop.call_soon(callback)
        await asyncio.gather(one(), one())
        await eventually(lambda: len(handles) == 2)  # noqa: B023
        assert handles[0] is handles[1]
        longest = loop.stats().longest_callback
        if "Executing" not in caplog.text and longest < loop.slow_callback_duration:
            return
    raise AssertionError(f"{longest} s\n{caplog.text}")


@pytest.mark.only("debug")
async def test_a_slow_callback_is_reported(loop, caplog, asyncio_log, eventually):
    """(T3.16)"""
    loop.slow_callback_duration = 0.05

    def callback():
        await_(asyncio.sleep(0.01))
        time.sleep(0.06)

    def reports():
        return [line for line in caplog.text.splitlines() if "Executing" in line and name in line]

    name = callback.__qualname__
    loop.call_soon(callback)
    await eventually(reports)
    assert len(reports()) == 1


async def test_a_long_callback_is_counted(loop, eventually):
    """(T3.16)"""

    def callback():
        await_(asyncio.sleep(0.01))
        time.sleep(0.06)

    loop.call_soon(callback)
    await eventually(lambda: loop.stats().longest_callback >= 0.06)


async def test_waits_are_counted(loop):
    before = loop.stats().waits

    async def one():
        await_(asyncio.sleep(0.01))
        await_(asyncio.sleep(0.01))

    tasks = [loop.create_task(one()) for _ in range(3)]
    await asyncio.sleep(0)
    assert loop.stats().waiting_functions == 3
    await asyncio.gather(*tasks)
    assert loop.stats().waiting_functions == 0
    assert loop.stats().waits == before + 6
