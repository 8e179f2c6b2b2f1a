"""Waiting is no work: debug mode and the counters.

The handle that debug mode names is in a private attribute of the loop.
"""

import asyncio
import time

import pytest

from hybridloop import await_

pytestmark = pytest.mark.only("hybridloop", "debug")


async def test_a_wait_is_no_slow_callback(loop, caplog):
    """(T3.16)"""
    loop.slow_callback_duration = 0.6
    handles = []

    def callback():
        handles.append(loop._current_handle)
        await_(asyncio.sleep(0.8))
        handles.append(loop._current_handle)

    async def one():
        await_(asyncio.sleep(0.8))

    loop.call_soon(callback)
    await asyncio.gather(one(), one())
    await asyncio.sleep(0.05)
    assert "Executing" not in caplog.text
    assert loop.stats().longest_callback < 0.6
    assert handles[0] is handles[1]


@pytest.mark.only("debug")
async def test_a_slow_callback_is_reported(loop, caplog, asyncio_log):
    """(T3.16)"""
    loop.slow_callback_duration = 0.05

    def callback():
        await_(asyncio.sleep(0.01))
        time.sleep(0.06)

    loop.call_soon(callback)
    await asyncio.sleep(0.1)
    [line] = [line for line in caplog.text.splitlines() if "Executing" in line]
    assert "callback" in line


async def test_a_long_callback_is_counted(loop):
    """(T3.16)"""

    def callback():
        await_(asyncio.sleep(0.01))
        time.sleep(0.06)

    loop.call_soon(callback)
    await asyncio.sleep(0.1)
    assert 0.06 <= loop.stats().longest_callback < 10


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
