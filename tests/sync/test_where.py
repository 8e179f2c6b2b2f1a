"""Where a function can wait and where it is refused; sections that must not give way."""

import asyncio
import os
import signal
import sys
import threading
import time
import warnings

import pytest

import hybridloop
from hybridloop import await_, sync


async def slow(value=None, delay=0.001):
    await asyncio.sleep(delay)
    return value


def wait(value=None, delay=0.001):
    return await_(slow(value, delay))


def test_without_a_loop():
    """(T3.25)"""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="^no running event loop$"):
            wait()
    assert not sync.can_await()


def test_on_a_loop_that_cannot_be_entered_again():
    """(T3.25)"""

    async def main():
        assert not sync.can_await()
        with pytest.raises(sync.SyncAwaitError, match="sync.prepare"):
            wait()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())


def test_on_free_threaded_pythons(run_program):
    """It is refused, and loops run as ever. (T3.33)"""
    out = run_program(
        """
import sys
sys._is_gil_enabled = lambda: False
import asyncio, warnings
import hybridloop
from greenlet import getcurrent
from hybridloop import await_, sync

warnings.simplefilter("error")

def refused(call):
    try:
        call()
    except sync.SyncAwaitError as error:
        assert "free-threaded" in str(error), error
    else:
        raise AssertionError("not refused")

async def main():
    assert getcurrent() is at_first
    assert not sync.can_await()
    refused(lambda: await_(asyncio.sleep(0)))
    refused(sync.nest)
    refused(lambda: sync.nest(asyncio.get_running_loop()))
    return await asyncio.sleep(0.001, "done")

at_first = getcurrent()
print(sync.run(main()))
loop = asyncio.SelectorEventLoop()
refused(lambda: sync.prepare(loop))
loop.close()
print(sync.waiting())
"""
    )
    assert out == "done\n[]\n"


def test_on_uvloop(run_program):
    """(T3.25)"""
    pytest.importorskip("uvloop")
    run_program(
        """
import asyncio, uvloop
from hybridloop import await_, sync

async def main():
    assert not sync.can_await()
    for call in (lambda: await_(asyncio.sleep(0)), lambda: sync.prepare(loop)):
        try:
            call()
        except sync.SyncAwaitError as error:
            assert "uvloop.Loop" in str(error), error
        else:
            raise AssertionError

loop = uvloop.new_event_loop()
loop.run_until_complete(main())
loop.close()
"""
    )


def test_in_a_task_of_trio():
    """(T3.25)"""
    trio = pytest.importorskip("trio")

    async def main():
        with pytest.raises(RuntimeError, match="no running event loop"):
            wait()

    trio.run(main)


def test_a_portal_of_greenback_waits_on_any_loop():
    """(T3.25)"""
    greenback = pytest.importorskip("greenback")

    async def main():
        await greenback.ensure_portal()
        return wait(5)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(main()) == 5


@pytest.mark.only("hybridloop")
async def test_in_a_signal_handler_during_a_poll(loop):
    """(T3.25)"""
    caught = []

    ended = asyncio.Event()

    def handler(number, frame):
        if not caught:
            try:
                wait()
            except sync.SyncAwaitError as error:
                caught.append(str(error))
                loop.call_soon_threadsafe(ended.set)

    def send():
        # Until one comes during a poll: elsewhere the function waits.
        deadline = time.monotonic() + 60
        while not caught and time.monotonic() < deadline:
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGUSR1)
        loop.call_soon_threadsafe(ended.set)

    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=send)
    thread.start()
    try:
        await ended.wait()
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert caught == ["the loop's own code has called this: nothing that can wait"]


async def test_in_another_thread(loop):
    """(T3.25)"""

    def other():
        with pytest.raises(RuntimeError, match="no running event loop"):
            wait()
        return sync.can_await()

    assert await asyncio.to_thread(other) is False
    assert sync.can_await()


async def test_no_switch(loop):
    """(T3.25)"""
    caught = []

    async def other():
        for _ in range(3):
            wait()
        return "free"

    task = loop.create_task(other())
    with sync.no_switch():
        assert not sync.can_await()
        with pytest.raises(sync.NoSwitchError, match="within no_switch"):
            wait()
        with sync.no_switch():
            pass
        with pytest.raises(sync.NoSwitchError):
            wait()
        # Other tasks and what is scheduled here are free to wait.
        loop.call_soon(lambda: caught.append(wait("scheduled")))
        child = loop.create_task(other())
        await asyncio.sleep(0.02)
        with pytest.raises(sync.NoSwitchError):
            wait()
    assert wait(1) == 1
    assert await asyncio.gather(task, child) == ["free", "free"] and caught == ["scheduled"]


async def test_no_switch_in_a_callback(loop):
    """(T3.25)"""
    got = loop.create_future()

    def callback():
        with sync.no_switch():
            with pytest.raises(sync.NoSwitchError):
                wait()
            loop.call_soon(lambda: got.set_result(wait("later")))
        wait()

    loop.call_soon(callback)
    assert await got == "later"


async def both(first, second):
    async def run(function):
        return function()

    return await asyncio.gather(run(first), run(second), return_exceptions=True)


async def test_another_task_gets_into_an_rlock(loop):
    """A documented fact. (T3.25)"""
    lock, inside = threading.RLock(), []

    def locked():
        with lock:
            inside.append(1)
            wait(delay=0.01)
            most.append(len(inside))
            inside.pop()

    most = []
    await both(locked, locked)
    assert max(most) == 2


async def test_another_task_does_not_get_a_lock(loop):
    """A documented fact: it would wait for ever. (T3.25)"""
    lock, got = threading.Lock(), []

    def holds():
        with lock:
            wait(delay=0.01)

    def wants():
        got.append(lock.acquire(timeout=0.05))

    await both(holds, wants)
    assert got == [False]


async def test_a_generator_that_waits_is_busy_for_others(loop):
    """A documented fact. (T3.25)"""

    def numbers():
        yield wait(1)

    generator = numbers()
    first, second = await both(lambda: next(generator), lambda: next(generator))
    assert first == 1 and str(second) == "generator already executing"


async def test_a_list_that_is_sorted_is_empty_for_others(loop):
    """A documented fact. (T3.25)"""
    values = [3, 1, 2]
    _, seen = await both(lambda: values.sort(key=wait), lambda: list(values))
    assert seen == [] and values == [1, 2, 3]


async def test_another_task_finds_half_a_module(loop, tmp_path, monkeypatch):
    """A documented fact. (T3.25)"""
    (tmp_path / "imported_by_sync.py").write_text(
        "import asyncio\n"
        "from hybridloop import await_\n"
        "first = 1\n"
        "await_(asyncio.sleep(0.01))\n"
        "second = 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    monkeypatch.delitem(sys.modules, "imported_by_sync", raising=False)

    def get():
        import imported_by_sync

        return hasattr(imported_by_sync, "second")

    first, second = await both(get, get)
    assert first is True and second is False


def test_greenlet_is_only_imported_for_this(run_program):
    """(T3.29)"""
    run_program(
        """
import asyncio, sys
import hybridloop, hybridloop.metrics, hybridloop.parallel

hybridloop.run(asyncio.sleep(0))
assert "greenlet" not in sys.modules and "hybridloop.sync" not in sys.modules
hybridloop.await_
assert "greenlet" in sys.modules
"""
    )


def test_without_greenlet_an_error_says_what_to_install(run_program):
    """(T3.29)"""
    run_program(
        """
import sys
sys.modules["greenlet"] = None
import hybridloop
for name in ("await_", "ohwait"):
    try:
        getattr(hybridloop, name)
    except ImportError as error:
        assert "pip install 'hybridloop[sync]'" in str(error)
    else:
        raise AssertionError
"""
    )


def test_several_loops_in_threads(loop):
    """(T3.28)"""
    seen = []

    async def one(number):
        return wait(number, 0.001 * (number % 5))

    async def main():
        return await asyncio.gather(*(one(number) for number in range(50)))

    def run():
        seen.append(hybridloop.run(main()))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert loop.run_until_complete(main()) == list(range(50))
    for thread in threads:
        thread.join()
    assert seen == [list(range(50))] * 3


@pytest.mark.only("hybridloop")
async def test_in_tasks_of_an_engine(loop):
    """(T3.28)"""

    async def one(number):
        return wait(number)

    async with hybridloop.Engine(gil_threads=2) as engine:
        handles = [engine.spawn(one(number)) for number in range(20)]
        assert [await handle for handle in handles] == list(range(20))


@pytest.mark.only("hybridloop", "debug")
async def test_native_awaitables(loop):
    """(T3.7)"""
    assert await_(loop.run_native("hl.crc32", b"123456789")) == 0xCBF43926
    assert await_(loop.getaddrinfo("127.0.0.1", 80))
    process = await_(asyncio.create_subprocess_exec("true"))
    assert await_(process.wait()) == 0
    assert await_(asyncio.gather(slow(1), slow(2))) == [1, 2]
    assert await_(asyncio.to_thread(time.sleep, 0.001)) is None


@pytest.mark.only("hybridloop")
def test_trio_in_guest_mode(loop):
    """(T3.28)"""
    trio = pytest.importorskip("trio")
    ended = loop.create_future()

    async def main():
        await trio.sleep(0.01)
        result = await_(slow("from asyncio"))
        await trio.sleep(0.01)
        return result

    async def host():
        trio.lowlevel.start_guest_run(
            main,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
            host_uses_signal_set_wakeup_fd=True,
        )
        return await ended

    assert loop.run_until_complete(host()).unwrap() == "from asyncio"


def test_without_the_fields_of_tasks_only_callbacks_wait(run_program, monkeypatch):
    """(T3.25)"""
    monkeypatch.setenv("HYBRIDLOOP_SAFE", "task_fields")
    run_program(
        """
import asyncio, hybridloop
from hybridloop import await_, sync

async def main():
    assert not sync.can_await()
    try:
        await_(asyncio.sleep(0))
    except sync.SyncAwaitError as error:
        assert "cannot wait in <Task" in str(error)
    else:
        raise AssertionError
    loop = asyncio.get_running_loop()
    got = loop.create_future()
    loop.call_soon(lambda: got.set_result(await_(asyncio.sleep(0.001, "callback"))))
    assert await got == "callback"

hybridloop.run(main())
assert hybridloop.build_info()["unstable"]["task_fields"] is False
"""
    )
