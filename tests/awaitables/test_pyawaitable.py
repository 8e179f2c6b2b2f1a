"""Programs for PyAwaitable 2.x, and the faults that they have there."""

import asyncio
import gc
import inspect
import shutil
import subprocess
import sys
import types
import warnings
import weakref

import pytest
import trio

from .support import LIMITED, begin, build, load, run

pytestmark = pytest.mark.improves_on_asyncio

BUILDS = {
    "full": {"defines": {}, "flags": ["-std=c11", "-UNDEBUG"]},
    "limited": {"defines": LIMITED},
    "C++": {"defines": LIMITED, "flags": ["-xc++", "-Wno-missing-field-initializers"]},
    # The header imports hybridloop on first use.
    "without init": {"defines": {"WITHOUT_INIT": "1"}},
}


@pytest.fixture(scope="module", params=BUILDS)
def module(request, tmp_path_factory):
    if request.param == "C++" and shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    path = build("pyawaitable", tmp_path_factory.mktemp("module"), **BUILDS[request.param])
    return load(path, "pyawaitable")


async def foo():
    await asyncio.sleep(0.01)
    return 1


async def gives(value):
    await asyncio.sleep(0)
    return value


class Inner:
    def __init__(self, suppress=False):
        self.events = []
        self.suppress = suppress

    async def wait(self):
        try:
            self.events.append("began")
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            self.events.append("cancelled")
            if not self.suppress:
                raise
        return "suppressed"


async def awaits(aw):
    return await aw


async def test_an_awaited_coroutine(loop, module):
    """(T2.1)"""
    assert await module.test_awaitable(object(), foo()) == 1


async def test_cancelling_reaches_what_is_awaited(loop, module):
    """F1 (T2.6)"""
    inner = Inner()
    task = await begin(awaits(module.trampoline(inner.wait())), inner)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert inner.events == ["began", "cancelled"]


async def test_as_the_coroutine_of_a_task(loop, module):
    """F2 (T2.6)"""
    inner = Inner()
    task = await begin(module.trampoline(inner.wait()), inner)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    inner = Inner()
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(module.trampoline(inner.wait()))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            raise LookupError
    assert [type(error) for error in caught.value.exceptions] == [LookupError]
    assert inner.events == ["began", "cancelled"]


async def test_a_suppressed_cancellation(loop, module):
    """F3 (T2.6)"""
    inner = Inner(suppress=True)
    task = await begin(module.trampoline(inner.wait()), inner)
    task.cancel()
    assert await task == "suppressed"


async def test_an_error_callback_takes_the_cancellation(loop, module):
    """F4 (T2.6)"""
    inner = Inner()
    task = await begin(awaits(module.swallowing(inner.wait())), inner)
    task.cancel()
    assert await task is None
    assert inner.events == ["began", "cancelled"]


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(
    "args", [(ValueError,), (ValueError("text"),), (ValueError, "text"), (ValueError, "text", None)]
)
def test_throw(module, args, begun):
    """F5 (T2.6)"""
    coroutine = gives(1)
    aw = module.trampoline(coroutine)
    if begun:
        aw.send(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(ValueError):
            aw.throw(*args)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        aw.send(None)
    assert coroutine.cr_frame is None


def test_await_gives_no_iterator(module):
    """F6 (T2.6)"""

    class Awaitable:
        def __await__(self):
            return 1

    aw = module.trampoline(Awaitable())
    with pytest.raises(TypeError, match="__await__\\(\\) .*iterator.* '?int"):
        aw.send(None)


async def test_cancel_and_go_on(loop, module):
    """F7 (T2.6)"""
    dropped = gives("dropped")
    assert await module.cancelling(gives(1), dropped, gives(2)) == 2
    assert dropped.cr_frame is None


def test_never_awaited(module):
    """F8 (T2.6)"""

    def make():
        aw = module.make()
        assert aw is not None
        raise LookupError("raised meanwhile")

    with pytest.warns(RuntimeWarning, match="coroutine 'PyAwaitable' was never awaited"):
        with pytest.raises(LookupError, match="raised meanwhile"):
            make()
        gc.collect()


async def test_two_programs_in_one_process(loop, module, tmp_path):
    """F9 (T2.6)"""
    other = load(build("pyawaitable", tmp_path, {"WITHOUT_INIT": "1"}), "pyawaitable")
    assert other is not module
    assert await module.trampoline(other.trampoline(gives(1))) == 1
    assert await other.trampoline(module.trampoline(gives(2))) == 2
    assert other.get_type() is module.get_type()


async def test_two_tasks_await_one(loop, module):
    """F10 (T2.6)"""
    aw = module.trampoline(foo())
    first = asyncio.create_task(awaits(aw))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
        await aw
    assert await first == 1


def test_sent_values(module):
    """F11 (T2.6)"""
    log = []

    class Awaitable:
        def __await__(self):
            log.append((yield 1))
            log.append((yield 2))
            return 3

    aw = module.trampoline(Awaitable())
    assert aw.send(None) == 1
    assert aw.send("a") == 2
    with pytest.raises(StopIteration) as end:
        aw.send("b")
    assert end.value.value == 3
    assert log == ["a", "b"]


class Manager:
    def __init__(self, suppress):
        self.suppress = suppress
        self.seen = []

    async def __aenter__(self):
        return "entered"

    async def __aexit__(self, kind, value, traceback):
        self.seen.append(value)
        return self.suppress


@pytest.mark.parametrize("error", [None, LookupError("inside")])
@pytest.mark.parametrize("suppress", [True, False])
async def test_async_with(loop, module, error, suppress):
    """F12 (T2.6)"""
    manager = Manager(suppress)
    aw = module.async_with(manager, error)
    if error is None or suppress:
        assert await aw == "entered"
    else:
        with pytest.raises(LookupError) as caught:
            await aw
        assert caught.value is error
    assert manager.seen == [error]


def test_what_is_held_is_let_go(module):
    """F13 (T2.6)"""

    class Value:
        pass

    value = Value()
    gone = weakref.ref(value)
    aw = module.make()
    module.set_result(aw, value)
    del value
    module.set_result(aw, None)
    assert gone() is None

    class Thing:
        async def wait(self):
            await asyncio.sleep(0)

    thing = Thing()
    gone = weakref.ref(thing)
    thing.aw = aw
    module.add(aw, thing.wait())
    with pytest.warns(RuntimeWarning):
        del thing, aw
        gc.collect()
    assert gone() is None


def test_a_deferred_callback_without_an_exception(module):
    """F14 (T2.6)"""
    with pytest.raises(SystemError, match="error without an exception"):
        module.deferring().send(None)


def test_trio(module):
    """F15 (T2.6)"""

    async def inner():
        await trio.sleep(0.001)
        return 1

    async def main():
        assert await module.trampoline(inner()) == 1

    trio.run(main)


async def test_what_is_shown(loop, module):
    """F16 (T2.6)"""
    inner = foo()
    task = asyncio.ensure_future(module.trampoline(inner))
    await asyncio.sleep(0)
    assert "coro=<PyAwaitable() running at" in repr(task)
    assert task.get_coro().cr_await is inner
    assert inspect.getcoroutinestate(task.get_coro()) == "CORO_SUSPENDED"
    await task


def test_values(module):
    """With assertions, and with the limited API: F17 (T2.6)."""
    for use in (module.saved_values, module.saved_pointers):
        aw = module.make()
        use(aw)
        aw.close()


def test_the_type(module):
    aw = module.make()
    assert type(aw) is module.get_type()
    aw.close()


async def test_an_expression(loop, module):
    async def fails():
        raise LookupError

    def does_not_start():
        raise KeyError("no")

    assert await module.expression(lambda: gives(1)) == 1
    with pytest.raises(LookupError):
        await module.expression(fails)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(KeyError, match="no"):
            module.expression(does_not_start)


async def test_after_cancel_nothing_warns(loop, module):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aw = module.trampoline(gives(1))
        module.cancel(aw)
        del aw
        gc.collect()


async def test_driven_by_a_generator(loop, module):
    @types.coroutine
    def generator(aw):
        return (yield from aw)

    assert await generator(module.trampoline(gives(1))) == 1


@pytest.mark.parametrize("define", [{}, {"WITHOUT_INIT": "1"}])
def test_without_hybridloop(tmp_path, define):
    path = build("pyawaitable", tmp_path, define)
    program = f"""
import importlib.util, sys
sys.modules["hybridloop"] = None
spec = importlib.util.spec_from_file_location("pyawaitable", {str(path)!r})
try:
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make()
except ImportError as error:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_a_run(module):
    assert run(module.test_awaitable(None, foo())) == 1
