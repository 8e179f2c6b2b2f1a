"""What programs and debuggers see of coroutines written in C."""

import asyncio
import collections.abc
import inspect
import io
import sys

import pytest

pytestmark = pytest.mark.improves_on_asyncio


@pytest.fixture
def aw(callbacks):
    aw = callbacks.new()
    yield aw
    aw.close()


def test_classes(aw):
    """(T2.9)"""
    assert isinstance(aw, collections.abc.Coroutine)
    assert isinstance(aw, collections.abc.Awaitable)
    assert not isinstance(aw, (collections.abc.Iterable, collections.abc.Iterator))
    assert asyncio.iscoroutine(aw)
    assert inspect.isawaitable(aw)
    assert not inspect.iscoroutine(aw)
    assert type(aw).__module__ == "hybridloop._core"
    with pytest.raises(TypeError, match="cannot create"):
        type(aw)()


async def test_what_is_awaited_is_shown(loop, callbacks, aw):
    """(T2.9)"""
    inner = asyncio.sleep(100)
    callbacks.add_await(aw, inner)
    assert (aw.cr_await, aw.cr_running, aw.cr_suspended) == (None, False, False)
    task = asyncio.ensure_future(aw)
    await asyncio.sleep(0)
    assert (aw.cr_await, aw.cr_running, aw.cr_suspended) == (inner, False, True)
    assert inspect.getcoroutinestate(aw) == "CORO_SUSPENDED"
    task.cancel()
    await asyncio.wait([task])
    assert (aw.cr_await, aw.cr_running, aw.cr_suspended) == (None, False, False)
    assert inspect.getcoroutinestate(aw) == "CORO_CLOSED"


async def test_a_task_is_shown(loop, callbacks, aw):
    """(T2.9)"""
    callbacks.add_await(aw, asyncio.sleep(100))
    task = asyncio.ensure_future(aw)
    await asyncio.sleep(0)
    assert "coro=<tests.callbacks.coroutine() running at " in repr(task)
    assert [frame.f_code.co_qualname for frame in task.get_stack()] == ["tests.callbacks.coroutine"]
    printed = io.StringIO()
    task.print_stack(file=printed)
    assert "in coroutine" in printed.getvalue()
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.skipif(sys.version_info < (3, 14), reason="call graphs came with Python 3.14")
async def test_call_graph(loop, callbacks, aw):
    """(T2.9)"""

    async def outer():
        await aw

    async def inner():
        await asyncio.sleep(100)

    callbacks.add_await(aw, inner())
    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    graph = asyncio.format_call_graph(task)
    lines = [line for line in graph.splitlines() if " in " in line]
    names = ["sleep", "inner", "tests.callbacks.coroutine", "outer"]
    assert [name for line in lines for name in names if name in line] == names
    task.cancel()
    await asyncio.wait([task])
