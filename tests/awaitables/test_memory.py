"""Coroutines written in C leave no memory and no references behind.

A private attribute of futures says that a task waits for them; a test takes the task's place.
"""

import asyncio
import gc
import subprocess
import sys

import pytest

from tests import memory

from . import scenarios
from .support import run

pytestmark = pytest.mark.improves_on_asyncio

# Awaits before the first count, and between the two.
WARM, MANY = 20_000, 1_000_000


async def at_once():
    pass


@pytest.mark.skipif(not memory.available, reason="needs mallinfo2() of glibc 2.33")
@pytest.mark.parametrize("kind", ["callbacks", "steps", "for"])
def test_many_awaits(extension, kind):
    """(T2.4)"""
    c, s = extension("callbacks"), extension("steps")

    async def main(n):
        if kind == "steps":
            await s.new("loop", lambda i: at_once() if i < n else None)
        elif kind == "for":
            aw = c.new()
            c.add_for(aw, scenarios.count(n), lambda aw, item: c.add_await(aw, at_once()))
            await aw
        else:
            for _ in range(n // 4):
                aw = c.new()
                for _ in range(4):
                    c.add_await(aw, at_once(), None, None)
                await aw

    run(main(WARM))
    gc.collect()
    before = memory.in_use()
    run(main(MANY))
    gc.collect()
    assert memory.in_use() - before < 500_000


@pytest.mark.parametrize("name", scenarios.SCENARIOS)
def test_the_scenario_runs(name, extension):
    """It would be of no use below if it raised."""
    scenarios.once(name, extension)
    assert gc.garbage == []


@pytest.mark.skipif(
    not hasattr(sys, "gettotalrefcount"), reason="only a debug build of Python counts references"
)
@pytest.mark.parametrize("name", scenarios.SCENARIOS)
def test_no_reference_stays(name, tmp_path):
    """(T2.4)"""
    command = [sys.executable, "-m", "tests.awaitables.scenarios", name, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_waiting_object_is_small(extension):
    """What waits for one thing, with callbacks, takes less than 300 bytes."""
    c = extension("callbacks")

    async def main(n):
        future = asyncio.get_running_loop().create_future()
        made = [c.new() for _ in range(n)]
        before = sys.getallocatedblocks(), memory.in_use()
        for aw in made:
            c.add_await(aw, future)
            aw.send(None)
            future._asyncio_future_blocking = False
        assert type(made[0]).__basicsize__ <= 256
        assert (sys.getallocatedblocks() - before[0]) / n < 3
        for aw in made:
            aw.close()

    run(main(10_000))
