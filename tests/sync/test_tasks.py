"""A function that waits in a task is part of that task.

Its private attributes say what the task waits for.
"""

import asyncio
import contextvars
import faulthandler
import io
import sys
import tempfile

import anyio
import pytest

from hybridloop import await_, sync

variable = contextvars.ContextVar("variable", default=0)


@pytest.fixture(autouse=True, params=["native", "python"])
def kind_of_task(request, loop):
    """Tasks of `_asyncio`, and those that asyncio falls back to."""
    if request.param == "python":
        if sys.version_info >= (3, 14):
            pytest.skip("asyncio.current_task() does not know tasks of Python since 3.14")
        loop.set_task_factory(
            lambda loop, coro, **options: asyncio.tasks._PyTask(coro, loop=loop, **options)
        )


async def slow(value=None, delay=0.001):
    await asyncio.sleep(delay)
    return value


def wait(value=None, delay=0.001):
    return await_(slow(value, delay))


async def test_the_current_task_stays(loop):
    """(T3.5)"""

    async def one():
        task = asyncio.current_task()

        async def within():
            assert asyncio.current_task() is task
            await asyncio.sleep(0)
            assert asyncio.current_task() is task

        await_(within())
        assert asyncio.current_task() is task

    await asyncio.gather(*(one() for _ in range(5)))


async def test_variables_are_those_of_the_task(loop):
    """(T3.5)"""

    async def set_to(number):
        await asyncio.sleep(0.001)
        assert variable.get() == number - 1
        variable.set(number)
        await asyncio.sleep(0.001)

    async def one(number):
        variable.set(number - 1)
        await_(set_to(number))
        assert variable.get() == number

        def within_run():
            await_(set_to(number + 1))
            return variable.get()

        copy = contextvars.copy_context()
        assert copy.run(within_run) == number + 1
        assert variable.get() == number

    await asyncio.gather(*(loop.create_task(one(10 * number)) for number in range(1, 6)))
    assert variable.get() == 0


async def test_cancel_reaches_what_it_waits_for(loop):
    """(T3.5)"""
    future = loop.create_future()

    async def one():
        try:
            await_(future)
        except asyncio.CancelledError as error:
            return error.args

    task = loop.create_task(one())
    await asyncio.sleep(0)
    assert task._fut_waiter is future
    assert task.cancel("enough")
    assert await task == ("enough",)
    assert future.cancelled() and task.cancelling() == 1


async def test_cancel_is_delivered_once(loop):
    """Before the wait, while it waits, and after what it waits for is done. (T3.5)"""
    caught = []

    async def one(when):
        task = asyncio.current_task()
        future = loop.create_future()
        if when == "before":
            task.cancel()
        elif when == "within":
            loop.call_soon(task.cancel)
        else:
            loop.call_soon(lambda: (future.set_result(None), task.cancel()))
        try:
            await_(future)
        except asyncio.CancelledError:
            caught.append(when)
        await_(slow())
        await asyncio.sleep(0.001)
        return when

    for when in ("before", "within", "after"):
        assert await loop.create_task(one(when)) == when
    assert caught == ["before", "within", "after"]


async def test_cancel_of_a_bare_iteration(loop):
    """(T3.5)"""

    async def one():
        loop.call_soon(asyncio.current_task().cancel)
        try:
            await_(asyncio.sleep(0))
        except asyncio.CancelledError:
            return "cancelled"

    assert await loop.create_task(one()) == "cancelled"


async def test_a_coroutine_that_suppresses_wins(loop):
    """(T3.5)"""

    async def stubborn():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return await slow("suppressed")

    async def one():
        return await_(stubborn())

    task = loop.create_task(one())
    await asyncio.sleep(0.001)
    task.cancel()
    assert await task == "suppressed"


async def test_timeouts(loop):
    """(T3.5)"""

    async def times_out(delay):
        async with asyncio.timeout(delay):
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            wait(delay=10)
    with pytest.raises(TimeoutError):
        await_(times_out(0.01))
    with pytest.raises(TimeoutError):
        await_(asyncio.wait_for(slow(delay=10), 0.01))
    async with asyncio.timeout(10):
        assert wait(5) == 5
    assert asyncio.current_task().cancelling() == 0


async def test_task_groups(loop):
    """(T3.5)"""

    async def waits():
        try:
            wait(delay=10)
        finally:
            ended.append("waits")

    async def fails():
        wait()
        raise ValueError

    async def group():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(waits())
            tasks.create_task(fails())

    ended = []
    with pytest.raises(ExceptionGroup):
        await group()
    with pytest.raises(ExceptionGroup):
        await_(group())
    assert ended == ["waits", "waits"]


async def test_shield(loop):
    """(T3.5)"""
    inner = loop.create_task(slow("inner", 0.05))

    async def one():
        await_(asyncio.shield(inner))

    task = loop.create_task(one())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await inner == "inner"


@pytest.mark.only("hybridloop", "asyncio")
def test_scopes_of_anyio(loop, kind_of_task):
    """(T3.5)"""

    async def main():
        with anyio.move_on_after(0.01) as scope:
            await_(anyio.sleep(10))
        assert scope.cancelled_caught

        async def within():
            with anyio.move_on_after(0.01) as scope:
                await anyio.sleep(10)
            return scope.cancelled_caught

        assert await_(within())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ordinary, 10)
            await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        return "ended"

    async def ordinary(delay):
        await_(anyio.sleep(delay))

    assert loop.run_until_complete(main()) == "ended"


async def test_errors_of_a_task(loop):
    """(T3.5)"""

    class Bad:
        def __init__(self, value):
            self.value = value

        def __await__(self):
            yield self.value

    other = asyncio.SelectorEventLoop()
    try:
        with pytest.raises(RuntimeError, match="Task got bad yield: 5"):
            await_(Bad(5))
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            await_(other.create_future())
        with pytest.raises(RuntimeError, match="yield was used instead of yield from"):
            await_(Bad(loop.create_future()))
        with pytest.raises(RuntimeError, match="Task cannot await on itself"):
            await_(asyncio.current_task())
        with pytest.raises(TypeError, match="can't be used in 'await' expression"):
            await_(5)
        with pytest.raises(ZeroDivisionError):
            await_(fails())
    finally:
        other.close()


async def fails():
    await asyncio.sleep(0)
    return 1 / 0


async def test_what_is_done_does_not_switch(loop):
    """(T3.7)"""
    done = loop.create_future()
    done.set_result(3)
    ran = []
    loop.call_soon(ran.append, 1)
    assert await_(done) == 3
    assert not ran


async def test_eager_tasks_wait_on_the_stack_of_their_parent(loop, kind_of_task):
    """(T3.26)"""
    if not hasattr(asyncio, "eager_task_factory") or loop.get_task_factory() is not None:
        pytest.skip("eager tasks are native ones of Python 3.12 and later")
    loop.set_task_factory(asyncio.eager_task_factory)
    parent, seen = asyncio.current_task(), []

    async def child():
        seen.append(asyncio.current_task())
        result = wait("from the child")
        assert asyncio.current_task() is seen[-1] is not parent
        return result

    task = loop.create_task(child())
    assert task.done() and asyncio.current_task() is parent
    assert await task == "from the child"
    loop.set_task_factory(None)


async def test_two_tasks_share_a_context(loop):
    """(T3.26)"""
    context = contextvars.copy_context()

    async def one(number):
        for _ in range(3):
            wait()
        variable.set(variable.get() + number)
        return True

    tasks = [loop.create_task(one(number), context=context) for number in (1, 2)]
    assert await asyncio.gather(*tasks) == [True, True]
    assert context[variable] == 3


async def test_frames_are_shown(loop):
    """(T3.27)"""

    async def one():
        waiting_here()

    def waiting_here():
        wait(delay=0.02)

    task = loop.create_task(one())
    await asyncio.sleep(0.001)
    [waits] = sync.waiting(loop)
    assert [frame.f_code.co_name for frame in waits.frames][-3:] == ["one", "waiting_here", "wait"]
    assert waits.task is task and waits.loop is loop and waits.since <= loop.time()
    assert "waiting_here" in str(waits)
    assert "one" in [frame.f_code.co_name for frame in task.get_stack()]
    task.print_stack(file=io.StringIO())
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
    await task


@pytest.mark.skipif(
    hasattr(sys, "gettotalrefcount"),
    reason="an assertion of debug builds fails: greenlet does not instrument suspended frames",
)
async def test_tracing(loop):
    """(T3.27)"""
    traced = []

    def trace(frame, event, arg):
        if frame.f_code.co_name == "wait":
            traced.append(event)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        wait()
    finally:
        sys.settrace(before)
    assert traced[0] == "call" and traced[-1] == "return"
