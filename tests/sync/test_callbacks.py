"""Callbacks of the loop wait, too."""

import asyncio
import contextvars
import gc
import socket
import threading
import weakref

import pytest

from hybridloop import await_, sync

variable = contextvars.ContextVar("variable", default=0)


async def slow(value=None, delay=0.001):
    await asyncio.sleep(delay)
    return value


def wait(value=None, delay=0.001):
    return await_(slow(value, delay))


def schedule_soon(loop, callback):
    loop.call_soon(callback)


def schedule_later(loop, callback):
    loop.call_later(0.001, callback)


def schedule_threadsafe(loop, callback):
    threading.Thread(target=loop.call_soon_threadsafe, args=[callback]).start()


def schedule_done(loop, callback):
    future = loop.create_future()
    future.add_done_callback(lambda _: callback())
    future.set_result(None)


def schedule_weakref(loop, callback):
    thing = asyncio.Event()
    reference = weakref.ref(thing, lambda _: callback())
    loop.call_soon(lambda thing: reference, thing)
    loop.call_soon(gc.collect)


def schedule_reader(loop, callback):
    ours, theirs = socket.socketpair()

    def readable():
        loop.remove_reader(ours)
        callback()
        ours.close()
        theirs.close()

    loop.add_reader(ours, readable)
    theirs.send(b"x")


@pytest.mark.parametrize(
    "schedule",
    [
        schedule_soon,
        schedule_later,
        schedule_threadsafe,
        schedule_done,
        schedule_weakref,
        schedule_reader,
    ],
)
async def test_each_kind_of_callback_waits(loop, schedule):
    """(T3.8)"""
    got = loop.create_future()

    def callback():
        assert asyncio.current_task() is None
        future = loop.create_future()
        loop.call_later(0.002, future.set_result, 2)
        values = [wait(1), await_(future), await_(loop.create_task(slow(3))), await_(Awaitable())]
        assert asyncio.current_task() is None
        got.set_result(values)

    schedule(loop, callback)
    assert await asyncio.wait_for(got, 60) == [1, 2, 3, 4]


class Awaitable:
    def __await__(self):
        yield from slow().__await__()
        return 4


async def test_variables_are_shared_with_the_callback(loop):
    """(T3.8)"""
    got = loop.create_future()

    async def change():
        await asyncio.sleep(0.001)
        variable.set(variable.get() + 1)

    def callback():
        variable.set(10)
        await_(change())
        got.set_result(variable.get())

    loop.call_soon(callback)
    assert await got == 11
    assert variable.get() == 0


async def test_an_exception_reaches_the_exception_handler_once(loop):
    """(T3.8)"""
    reports = []
    handled = asyncio.Event()

    def handler(loop, context):
        reports.append(context)
        wait()
        handled.set()

    async def fails():
        await asyncio.sleep(0.001)
        raise ZeroDivisionError

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: await_(fails()))
    await asyncio.wait_for(handled.wait(), 60)
    await asyncio.sleep(0.01)
    assert [type(report["exception"]) for report in reports] == [ZeroDivisionError]


async def test_signal_handlers_of_the_loop_wait(loop):
    """(T3.8)"""
    import os
    import signal

    got = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, lambda: got.set_result(wait("signalled")))
    os.kill(os.getpid(), signal.SIGUSR1)
    assert await asyncio.wait_for(got, 60) == "signalled"
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_a_callback_that_waits_is_shown(loop):
    """(T3.27)"""

    future = loop.create_future()

    def waits_for(future):
        await_(future)

    def callback():
        waits_for(future)

    loop.call_soon(callback)
    await asyncio.sleep(0)
    [waits] = sync.waiting()
    assert waits.task is None
    assert waits.future is future
    assert [frame.f_code.co_name for frame in waits.frames][-2:] == ["callback", "waits_for"]
    future.set_result(None)
    await asyncio.sleep(0)
    assert sync.waiting() == []
