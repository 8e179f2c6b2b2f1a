"""What ends while functions wait: a run, the loop, the process."""

import asyncio
import gc
import os
import signal
import sys
import threading
import time

import pytest

from hybridloop import await_, sync
from tests import memory
from tests.support.waiting import until

from .conftest import make_loop


def wait(delay=0.001):
    await_(asyncio.sleep(delay))


@pytest.mark.parametrize("where", ["task", "callback"])
def test_what_waits_goes_on_in_the_next_run(loop, where):
    """(T3.17)"""
    ended, released = [], loop.create_future()

    def callback():
        await_(released)
        ended.append(True)

    async def one():
        callback()

    if where == "task":
        task = loop.create_task(one())
    else:
        loop.call_soon(callback)
    loop.run_until_complete(asyncio.sleep(0.001))
    assert not ended and len(sync.waiting(loop)) == 1
    released.set_result(None)

    def deeper(level):
        if level:
            return deeper(level - 1)
        return loop.run_until_complete(asyncio.sleep(0.001))

    deeper(20)
    assert ended and sync.waiting(loop) == []
    if where == "task":
        assert task.done()


def test_a_run_that_stops_among_a_hundred(loop):
    """(T3.17)"""
    ended = []

    async def one(number):
        wait(0.001 * (number % 7))
        if number == 50:
            loop.stop()
        wait(0.001)
        ended.append(number)

    tasks = [loop.create_task(one(number)) for number in range(100)]
    loop.run_forever()
    assert len(ended) < 100
    loop.run_until_complete(asyncio.gather(*tasks))
    assert sorted(ended) == list(range(100))


def test_close_ends_what_waits(loop):
    """Every `finally` runs, and whoever waits again is told again. (T3.18)"""
    ended = []

    async def one(number):
        try:
            wait(100)
        except asyncio.CancelledError as error:
            ended.append((number, *error.args))
        finally:
            try:
                wait(100)
            except asyncio.CancelledError as error:
                ended.append((number, "again", *error.args))

    tasks = [loop.create_task(one(number)) for number in range(3)]
    loop.run_until_complete(asyncio.sleep(0.01))
    ran = []
    loop.call_soon(ran.append, 1)
    loop.close()
    assert loop.is_closed() and sync.waiting() == []
    closed = "the loop is closed"
    assert sorted(ended) == sorted(
        each for number in range(3) for each in [(number, closed), (number, "again", closed)]
    )
    assert all(task.done() for task in tasks) and not ran


def test_close_ends_a_callback(loop):
    """(T3.18)"""
    ended = []

    def callback():
        try:
            await_(loop.create_future())
        except asyncio.CancelledError:
            ended.append(1)

    loop.call_soon(callback)
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert ended == [1] and sync.waiting() == []


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_an_interrupt_under_a_runner_cancels_the_main_task(loop):
    """(T3.19)"""
    caught = []

    async def main():
        asyncio.get_running_loop().call_later(0.02, os.kill, os.getpid(), signal.SIGINT)
        try:
            wait(100)
        except asyncio.CancelledError:
            caught.append("cancelled")
            raise

    kind = "asyncio" if type(loop) is asyncio.SelectorEventLoop else "hybridloop"
    with asyncio.Runner(loop_factory=lambda: make_loop(kind)) as runner:
        with pytest.raises(KeyboardInterrupt):
            runner.run(main())
    assert caught == ["cancelled"]


@pytest.fixture
def interrupt():
    """Send the signal of Ctrl-C from another thread, some time after a condition holds."""
    threads = []

    def interrupt(condition):
        def send():
            until(condition)
            time.sleep(0.2)  # from there to the poll is not far
            os.kill(os.getpid(), signal.SIGINT)

        threads.append(threading.Thread(target=send))
        threads[-1].start()

    yield interrupt
    for thread in threads:
        thread.join()


def test_an_interrupt_in_a_poll_is_raised_in_what_began_to_wait_last(loop, interrupt):
    """(T3.19)"""
    caught, released = [], loop.create_future()

    async def one(number):
        await asyncio.sleep(0.01 * number)
        try:
            await_(released)
        except KeyboardInterrupt:
            caught.append(number)
            released.set_result(None)
            return
        caught.append(-number)

    async def main():
        await asyncio.gather(*(one(number) for number in (1, 3, 2)))

    interrupt(lambda: len(sync.waiting(loop)) == 3)
    loop.run_until_complete(main())
    assert caught[0] == 3 and sorted(caught[1:]) == [-2, -1]


def test_an_interrupt_in_a_poll_without_waiting_leaves_the_loop(loop, interrupt):
    """(T3.19)"""
    begun = threading.Event()
    loop.call_soon(begun.set)
    interrupt(begun.is_set)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.sleep(100))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_callback_leaves_the_loop(loop, kind):
    """What waits stays. (T3.19)"""
    ended, released = [], loop.create_future()

    async def one():
        await_(released)
        ended.append(1)

    def callback():
        wait()
        raise kind

    task = loop.create_task(one())
    loop.call_soon(callback)
    with pytest.raises(kind):
        loop.run_until_complete(asyncio.sleep(100))
    assert len(sync.waiting(loop)) == 1
    released.set_result(None)
    loop.run_until_complete(task)
    assert ended == [1]


PROGRAM = """
import asyncio, sys
import hybridloop
from hybridloop import await_, sync
from hybridloop import Loop

def make_loop(kind):
    if kind == "asyncio":
        loop = asyncio.SelectorEventLoop()
        sync.prepare(loop)
        return loop
    return Loop()

async def one():
    await_(asyncio.sleep(100))

async def main():
    keep.extend(asyncio.create_task(one()) for _ in range(20))
    asyncio.get_running_loop().call_soon(lambda: await_(asyncio.sleep(100)))
    await asyncio.sleep(0.01)
    assert len(sync.waiting()) == 21

keep = []
loop = make_loop({kind!r})
loop.run_until_complete(main())
{end}
"""


@pytest.mark.parametrize("kind", ["hybridloop", "asyncio"])
@pytest.mark.parametrize("end", ["", "sys.exit(0)", "del keep, loop"])
def test_a_process_ends_with_functions_that_wait(run_program, kind, end):
    """(T3.20)"""
    for _ in range(8):
        run_program(PROGRAM.format(kind=kind, end=end), errors=None)


@pytest.mark.skipif(not memory.available, reason="glibc counts what is in use")
async def test_memory_stays_flat(loop):
    """(T3.20)"""
    from hybridloop.sync.awaiting import stacks_of

    count = 2_000 if loop.get_debug() else 20_000

    async def waits(times):
        for _ in range(times):
            await_(asyncio.sleep(0))

    async def round_of_waits():
        await asyncio.gather(*(waits(count // 100) for _ in range(100)))
        # A slow machine would have trimmed some of them.
        stacks_of(loop).end_idle()
        gc.collect()
        return memory.in_use()

    await round_of_waits()
    before = await round_of_waits()
    for _ in range(4):
        after = await round_of_waits()
    assert after - before < 200_000


async def test_idle_runners_are_trimmed(loop, eventually):
    """(T3.20)"""
    from hybridloop.sync.awaiting import stacks_of
    from hybridloop.sync.stacks import MIN_IDLE

    stacks, released, idle = stacks_of(loop), loop.create_future(), []

    async def one():
        await_(released)
        idle.append(len(stacks.idle))

    tasks = [loop.create_task(one()) for _ in range(300)]
    await asyncio.sleep(0)
    # All go on in one iteration, in which no timer ends a runner.
    released.set_result(None)
    await asyncio.gather(*tasks)
    assert max(idle) > 250
    await eventually(lambda: len(stacks.idle) <= MIN_IDLE)

    async def another():
        wait(0.01)

    await asyncio.gather(*(another() for _ in range(30)))


def test_loops_run_in_threads_one_after_the_other(loop):
    """Idle runners belong to a thread and end with the run. (T3.30)"""

    async def one():
        wait()
        return threading.get_ident()

    seen = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: seen.append(loop.run_until_complete(one())))
        thread.start()
        thread.join()
    seen.append(loop.run_until_complete(one()))
    assert len(seen) == 4


def test_a_loop_that_has_run_is_collected():
    """(T3.30)"""
    import weakref

    loop = make_loop("hybridloop")

    async def one():
        wait()

    loop.run_until_complete(one())
    loop.close()
    reference = weakref.ref(loop)
    del loop
    gc.collect()
    assert reference() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_of_a_fork_does_not_wait(run_program):
    """(T3.25)"""
    printed = run_program(
        """
import asyncio, os, sys
import hybridloop
from hybridloop import await_, sync

async def waits():
    try:
        await_(asyncio.sleep(0.3))
    finally:
        print("ended in", "child" if os.getpid() != parent else "parent", flush=True)

async def main():
    task = asyncio.create_task(waits())
    await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    if (child := os.fork()) == 0:
        try:
            await_(asyncio.sleep(0))
        except RuntimeError as error:
            assert str(error) == "no running event loop", error
        os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 3
    await task

parent = os.getpid()
hybridloop.run(main())
""",
        errors=None,
    )
    assert printed == "ended in parent\n"
