"""Cancelling reaches what a coroutine of callbacks awaits."""

import asyncio
import sys

import pytest

from .support import Inner, begin, until

pytestmark = pytest.mark.improves_on_asyncio


async def wrapped(aw):
    return await aw


FORMS = {"awaited": wrapped, "as the task": lambda aw: aw}


@pytest.fixture(params=FORMS)
def form(request):
    """The coroutine itself is what runs, or one of Python awaits it."""
    return FORMS[request.param]


@pytest.fixture(params=[1, 3])
def make(request, callbacks):
    """Makes a coroutine that awaits `inner`, through several of them."""

    def make(awaitable):
        for _ in range(request.param):
            aw = callbacks.new()
            callbacks.add_await(aw, awaitable, lambda aw, v: callbacks.set_result(aw, v))
            awaitable = aw
        return awaitable

    return make


async def test_a_cancelled_task(loop, form, make):
    """(T2.2)"""
    inner = Inner()
    task = await begin(form(make(inner.wait())), inner)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert task.cancelled()
    assert inner.events == ["began", "cancelled", "finally"]


async def test_one_that_suppresses_gives_its_result(loop, form, make):
    """(T2.2)"""
    inner = Inner(suppress=True)
    task = await begin(form(make(inner.wait())), inner)
    task.cancel()
    assert await task == "suppressed"
    assert task.cancelling() == 1
    assert inner.events == ["began", "cancelled", "finally"]


async def test_cancelled_before_it_begins(loop, form, make):
    inner = Inner()
    task = asyncio.ensure_future(form(make(inner.wait())))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert inner.events == []


async def test_timeout(loop, form, make):
    """(T2.2)"""
    inner = Inner()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await form(make(inner.wait()))
    assert inner.events == ["began", "cancelled", "finally"]


async def test_wait_for(loop, form, make):
    """(T2.2)"""
    inner = Inner()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(form(make(inner.wait())), 0.01)
    assert inner.events == ["began", "cancelled", "finally"]


async def test_task_group(loop, form, make):
    """(T2.2)"""
    inner = Inner()

    async def fails():
        while not inner.events:
            await asyncio.sleep(0)
        raise LookupError

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(form(make(inner.wait())))
            group.create_task(fails())
    assert [type(error) for error in caught.value.exceptions] == [LookupError]
    assert task.cancelled()
    assert inner.events == ["began", "cancelled", "finally"]


async def test_gather(loop, form, make):
    """(T2.2)"""
    inners = [Inner(), Inner()]
    both = asyncio.gather(*(form(make(inner.wait())) for inner in inners))
    while not (inners[0].events and inners[1].events):
        await asyncio.sleep(0)
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
    await until(lambda: all(len(inner.events) == 3 for inner in inners))
    for inner in inners:
        assert inner.events == ["began", "cancelled", "finally"]


async def test_shield(loop, form, make):
    """(T2.2)"""
    inner = Inner()
    task = await begin(form(make(inner.wait())), inner)

    async def waits():
        await asyncio.shield(task)

    outer = asyncio.create_task(waits())
    await asyncio.sleep(0)
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert inner.events == ["began"]
    task.cancel()
    await asyncio.wait([task])
    assert inner.events == ["began", "cancelled", "finally"]


@pytest.mark.parametrize("status", [0, -1])
async def test_the_error_callback_sees_the_cancellation(loop, callbacks, form, status):
    """It is like `except BaseException`: what returns 0 swallows it."""
    seen = []

    def error(aw, exc):
        seen.append(exc)
        return status

    inner = Inner()
    aw = callbacks.new()
    callbacks.add_await(aw, inner.wait(), None, error)
    task = await begin(form(aw), inner)
    task.cancel()
    await asyncio.wait([task])
    assert [type(exc) for exc in seen] == [asyncio.CancelledError]
    assert task.cancelled() is (status == -1)
    assert inner.events == ["began", "cancelled", "finally"]


async def test_cancelled_while_it_waits_for_a_future(loop, callbacks, form):
    future = loop.create_future()
    aw = callbacks.new()
    callbacks.add_await(aw, future)
    task = asyncio.ensure_future(form(aw))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert future.cancelled()


def test_close_calls_no_callback(callbacks):
    """(T2.2)"""
    seen = []

    async def inner():
        try:
            await asyncio.sleep(0)
        finally:
            seen.append("finally")

    aw = callbacks.new()
    callbacks.add_await(aw, inner(), lambda aw, v: seen.append(v), lambda aw, e: seen.append(e))
    callbacks.add_defer(aw, lambda aw: seen.append("deferred"))
    aw.send(None)
    aw.close()
    assert seen == ["finally"]
    assert aw.cr_await is None


def test_one_that_ignores_close(callbacks):
    class Inner:
        def __await__(self):
            try:
                yield
            except GeneratorExit:
                yield

    async def python(awaitable):
        await awaitable

    aw = callbacks.new()
    callbacks.add_await(aw, Inner())
    ends = []
    for coroutine in (aw, python(Inner())):
        coroutine.send(None)
        with pytest.raises(RuntimeError) as caught:
            coroutine.close()
        ends.append((str(caught.value), coroutine.cr_await is None))
    assert ends[0] == ends[1]


def test_dropped_while_suspended(callbacks):
    """What is awaited is closed, and callbacks may use the coroutine that is going."""
    kept = []

    class Inner:
        def __await__(self):
            try:
                yield
            finally:
                kept.append("finally")

    aw = callbacks.new()
    callbacks.add_await(aw, Inner())
    aw.send(None)
    del aw
    assert kept == ["finally"]


def test_an_error_while_it_is_dropped_is_reported(callbacks, monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: reported.append(type(it.exc_value)))

    class Inner:
        def __await__(self):
            try:
                yield
            finally:
                raise LookupError

    aw = callbacks.new()
    callbacks.add_await(aw, Inner())
    aw.send(None)
    del aw
    assert reported == [LookupError]


def test_kept_by_a_callback_while_it_is_dropped(callbacks):
    kept = []

    class Inner:
        def __await__(self):
            try:
                yield
            finally:
                raise LookupError

    aw = callbacks.new()
    callbacks.add_await(aw, Inner(), None, lambda aw, exc: kept.append(aw) or 0)
    aw.send(None)
    del aw
    [aw] = kept
    assert aw.cr_frame is None
    with pytest.raises(RuntimeError, match="cannot reuse"):
        aw.send(None)
