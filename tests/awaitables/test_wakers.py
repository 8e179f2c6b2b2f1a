"""Coroutines that wait for threads without an interpreter.

Private functions of asyncio end a loop in the child of a fork, and a task without a warning.
"""

import asyncio
import os
import subprocess
import sys
import warnings

import pytest
import trio
import uvloop

import hybridloop

from .support import LIMITED, build, load

pytestmark = pytest.mark.improves_on_asyncio

FACTORIES = {
    "hybridloop": hybridloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
every_loop = pytest.mark.parametrize("name", FACTORIES)


@pytest.fixture(scope="session")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extension")
    return build("wakers", folder, LIMITED, flags=["-std=c11", "-pthread"])


@pytest.fixture(scope="session")
def wakers(path):
    return load(path, "wakers")


def run(name, main):
    with asyncio.Runner(loop_factory=FACTORIES[name]) as runner:
        return runner.run(main)


async def awaits(coroutine):
    return await coroutine


@every_loop
def test_no_wake_is_lost(wakers, name):
    """Each thread wakes after each number that it counts (T2.13)."""
    assert run(name, awaits(wakers.new("counts", 8, 100_000))) >= 0


@every_loop
def test_one_wake(wakers, name):
    async def main():
        for _ in range(300):
            await wakers.new("one_wake")
        await asyncio.gather(*(wakers.new("one_wake") for _ in range(100)))

    run(name, main())


@every_loop
def test_a_wake_before_the_wait(wakers, name):
    """It is not lost, and two that come together count once (T2.13)."""
    with pytest.raises(RuntimeError, match="nobody is left to wake"):
        run(name, awaits(wakers.new("woken_before")))


@every_loop
@pytest.mark.parametrize("kind", ["dropped_before", "dropped_by_a_thread"])
def test_all_wakers_dropped(wakers, name, kind):
    """(T2.13)"""
    for _ in range(20):
        with pytest.raises(RuntimeError, match="nobody is left to wake"):
            run(name, awaits(wakers.new(kind)))


@every_loop
def test_cancelled(wakers, name):
    async def main():
        for _ in range(20):
            task = asyncio.ensure_future(wakers.new("for_ever"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wakers.new("for_ever"), 0.001)

    run(name, main())


@every_loop
def test_wakes_after_a_cancellation(wakers, name):
    """Threads that go on find a coroutine that has ended (T2.13)."""

    async def main():
        for _ in range(20):
            task = asyncio.ensure_future(wakers.new("counts", 2, 2**40))
            await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    run(name, main())


@every_loop
@pytest.mark.parametrize("use", ["wake", "drop"])
def test_the_loop_is_closed_first(wakers, name, use):
    """(T2.13)"""
    loop = FACTORIES[name]()
    task = loop.create_task(wakers.keeping())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    getattr(wakers, use)()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task._log_destroy_pending = False
        del task


def test_the_coroutine_is_gone_first(wakers):
    async def main():
        task = asyncio.ensure_future(wakers.keeping())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        del task
        wakers.wake()

    run("hybridloop", main())


def test_trio_has_no_loop_of_asyncio(wakers):
    async def main():
        with pytest.raises(RuntimeError, match="no running event loop"):
            await wakers.new("for_ever")

    trio.run(main)


@every_loop
def test_fork(wakers, name):
    """A child leaves wakers alone that its parent has made, and uses its own (T2.13)."""

    async def main():
        task = asyncio.ensure_future(wakers.keeping())
        await asyncio.sleep(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            status = 1
            try:
                wakers.wake()
                asyncio.events._set_running_loop(None)
                with asyncio.Runner(loop_factory=FACTORIES[name]) as runner:
                    runner.run(awaits(wakers.new("counts", 2, 1000)))
                status = 0
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert status == 0
        assert not task.done()
        wakers.wake()
        await task

    run(name, main())


PROGRAM = """
import asyncio, importlib.util, sys
import hybridloop
path, factory, end = sys.argv[1:]
spec = importlib.util.spec_from_file_location("wakers", path)
wakers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wakers)

async def main():
    task = asyncio.ensure_future(wakers.new("woken_for_ever", 4))
    await asyncio.sleep(0.002)
    if end == "cancelled":
        task.cancel()
        await asyncio.wait([task])
    return task

loop = {"hybridloop": hybridloop.new_event_loop, "asyncio": asyncio.SelectorEventLoop}[factory]()
task = loop.run_until_complete(main())
if end == "closed":
    loop.close()
task._log_destroy_pending = False
"""


@pytest.mark.parametrize("factory", ["hybridloop", "asyncio"])
@pytest.mark.parametrize("end", ["cancelled", "closed", "waiting"])
def test_woken_while_the_interpreter_ends(path, factory, end):
    """(T2.13)"""
    for _ in range(17):
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM, path, factory, end]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
