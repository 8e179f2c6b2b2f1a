"""Tools that use private parts of asyncio: nest_asyncio, gevent, trio's guest mode; `_selector`."""

from __future__ import annotations

import inspect
import mmap
import selectors
import socket
import struct
import subprocess
import sys

import pytest

import hybridloop

from .support.loops import LOOP_NAME

pytestmark = pytest.mark.skipif(LOOP_NAME != "hybridloop", reason="tests hybridloop's own ways")


@pytest.fixture
def run(script_env):
    """Run a program that imports hybridloop itself, when it wants to."""

    def run(source: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", source],
            capture_output=True,
            text=True,
            timeout=280,
            env=script_env,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


# With greenlet these loops run within themselves: tests/sync/test_nesting.py.
NESTED = """
import sys
sys.modules["greenlet"] = None
import asyncio
import {module} as nested
import hybridloop

async def work():
    return await asyncio.gather(asyncio.sleep(0.001, 1), asyncio.to_thread(int, "5"))

def everything_runs():
    for make in (asyncio.SelectorEventLoop, hybridloop.new_event_loop):
        loop = make()
        assert loop.run_until_complete(work()) == [1, 5]
        loop.close()
    assert hybridloop.run(work()) == [1, 5]
"""


@pytest.fixture(params=["nest_asyncio", "nest_asyncio2"])
def nested(request) -> str:
    pytest.importorskip(request.param)
    if request.param == "nest_asyncio" and sys.version_info >= (3, 14):
        pytest.skip("its tasks are unknown to asyncio.current_task(): no loop shuts down")
    return NESTED.format(module=request.param)


def test_nest_asyncio_is_refused_in_its_own_words(run, nested) -> None:
    run(
        nested
        + """
loop = hybridloop.new_event_loop()
try:
    nested.apply(loop)
except ValueError as error:
    assert str(error).startswith("Can't patch loop of type <class 'hybridloop.loop.Loop'>")
else:
    raise AssertionError("nothing was refused")
assert loop.run_until_complete(work()) == [1, 5]
loop.close()
everything_runs()
"""
    )


def test_nest_asyncio_is_refused_while_the_loop_runs(run, nested) -> None:
    run(
        nested
        + """
async def main():
    try:
        nested.apply()
    except ValueError as error:
        assert "Can't patch loop of type" in str(error)
    else:
        raise AssertionError("nothing was refused")
    return await work()

assert hybridloop.run(main()) == [1, 5]
everything_runs()
"""
    )


@pytest.mark.parametrize("order", ["before", "after"])
def test_nest_asyncio_of_another_loop_leaves_ours_alone(run, nested, order) -> None:
    """It patches a class from which hybridloop's inherits."""
    if order == "before":
        nested = nested.replace("import hybridloop\n", "", 1)
    said = run(
        nested
        + """
loop = asyncio.SelectorEventLoop()
asyncio.set_event_loop(loop)
nested.apply(loop)
import hybridloop

async def main():
    return loop.run_until_complete(work())

assert loop.run_until_complete(main()) == [1, 5]
everything_runs()

async def within():
    coroutine = work()
    try:
        asyncio.get_running_loop().run_until_complete(coroutine)
    except RuntimeError as error:
        coroutine.close()
        return str(error)

print(hybridloop.run(within()))
loop.close()
"""
    )
    assert said == "This event loop is already running\n"


def test_what_tools_find_can_be_listed() -> None:
    loop = hybridloop.new_event_loop()
    assert "_nest_patched" not in dict(inspect.getmembers(loop))
    loop.close()


async def test_the_selector_tells_what_is_watched(loop) -> None:
    left, right = socket.socketpair()
    with left, right:
        loop.add_reader(left, print)
        loop.add_writer(right, print)
        watched = loop._selector.get_map()
        assert isinstance(loop._selector, selectors.BaseSelector)
        assert watched[left.fileno()].events == selectors.EVENT_READ
        assert watched[right.fileno()].events == selectors.EVENT_WRITE
        assert loop._selector.get_key(left).fd == left.fileno()
        loop.remove_reader(left)
        loop.remove_writer(right)
        assert not {left.fileno(), right.fileno()} & set(loop._selector.get_map())


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("register", (0, 1)), ("modify", (0, 1)), ("unregister", (0,))],
)
def test_the_selector_says_what_it_does_not_do(loop, method, arguments) -> None:
    with pytest.raises(NotImplementedError, match="loop.add_reader"):
        getattr(loop._selector, method)(*arguments)


async def test_only_the_loop_polls_its_selector(loop) -> None:
    with pytest.raises(RuntimeError, match="^only the event loop itself can poll its selector$"):
        loop._selector.select(0)


GREEN = """
from gevent import monkey
monkey.patch_all()
import asyncio, hybridloop, inspect, socket, threading, time

async def in_a_thread(function, *args):
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    def work():
        loop.call_soon_threadsafe(done.set_result, function(*args))
    threading.Thread(target=work).start()
    return await done

async def echo(reader, writer):
    writer.write(await reader.readline())
    writer.close()

def client(address):
    with socket.create_connection(address) as sock:
        sock.sendall(b"hello\\n")
        return sock.makefile("rb").readline()

async def main():
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(in_a_thread(time.sleep, 0.01) for _ in range(10)))
    chain = inspect.getsource(asyncio.futures._chain_future)
    if "dest_loop is events._get_running_loop()" not in chain:
        # Newer futures of asyncio take a green thread for the loop's own, and do not wake it.
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.01) for _ in range(10)))
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        assert await in_a_thread(client, address) == b"hello\\n"
    handled = loop.create_future()
    def cancels_itself():
        handle.cancel()
        handled.set_result(None)
    handle = loop.call_soon_threadsafe(cancels_itself)
    await handled
    await asyncio.sleep(0.001)

hybridloop.run(main(), debug=DEBUG)
"""


@pytest.mark.parametrize("debug", [False, True])
def test_green_threads_of_gevent_run_while_the_loop_waits(run, debug) -> None:
    pytest.importorskip("gevent")
    run(GREEN.replace("DEBUG", str(debug)))


GUEST = """
import asyncio, hybridloop, trio, warnings
warnings.simplefilter("error")

async def guest():
    await trio.sleep(0.001)
    return "done"

async def main():
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    trio.lowlevel.start_guest_run(
        guest,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=ended.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    return (await ended).unwrap()

print(hybridloop.run(main()))
"""


def test_trio_as_a_guest(run) -> None:
    pytest.importorskip("trio")
    assert run(GUEST) == "done\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_profilers_can_follow_native_frames() -> None:
    """py-spy's libunwind finds code by the offset at which its segment is mapped: whole pages."""
    with open(hybridloop._core.__file__, "rb") as file:
        header = file.read(64)
        start, size, count = struct.unpack_from("<32xQ14xHH", header)
        file.seek(start)
        segments = [struct.unpack_from("<IIQQ", file.read(size)) for _ in range(count)]
    load, executable = 1, 1
    code = [
        (offset, address)
        for kind, flags, offset, address in segments
        if kind == load and flags & executable
    ]
    assert code
    assert all(offset % mmap.PAGESIZE == 0 for offset, _address in code)
