"""run_in_executor and the default executor."""

import asyncio
import concurrent.futures
import contextvars
import socket
import sys
import threading

import pytest


async def test_runs_in_another_thread(loop):
    ident = await loop.run_in_executor(None, threading.get_ident)
    assert ident != threading.get_ident()


async def test_arguments_and_result(loop):
    assert await loop.run_in_executor(None, pow, 2, 10) == 1024


async def test_exception(loop):
    with pytest.raises(ValueError, match="invalid literal"):
        await loop.run_in_executor(None, int, "x")


async def test_own_executor(loop):
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        name = await loop.run_in_executor(executor, lambda: threading.current_thread().name)
    assert name.startswith("mine")


async def test_many_at_once(loop):
    results = await asyncio.gather(*(loop.run_in_executor(None, abs, -n) for n in range(300)))
    assert results == list(range(300))


async def test_to_thread_carries_the_context(loop):
    var = contextvars.ContextVar("var")
    var.set("carried")
    assert await asyncio.to_thread(var.get) == "carried"


async def test_loop_turns_while_the_executor_works(loop):
    release = threading.Event()
    future = loop.run_in_executor(None, release.wait, 60)
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert not future.done()
    release.set()
    assert await future is True


async def test_cancelled_wait_does_not_disturb(loop, eventually):
    release = threading.Event()
    future = loop.run_in_executor(None, release.wait, 60)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    release.set()
    assert await loop.run_in_executor(None, abs, -1) == 1


def test_set_default_executor(loop):
    executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="default")
    loop.set_default_executor(executor)
    name = loop.run_until_complete(
        loop.run_in_executor(None, lambda: threading.current_thread().name)
    )
    assert name.startswith("default")


@pytest.mark.parametrize("executor", [None, object(), "executor"])
def test_default_executor_has_to_be_a_thread_pool(loop, executor):
    with pytest.raises(TypeError, match="^executor must be ThreadPoolExecutor instance$"):
        loop.set_default_executor(executor)


def test_debug_mode_refuses_coroutines(loop):
    async def work():
        """Never run."""

    loop.set_debug(True)
    with pytest.raises(TypeError, match="coroutines cannot be used with run_in_executor"):
        loop.run_in_executor(None, work)


def test_closed_loop(loop):
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.run_in_executor(None, int)


def test_shutdown_default_executor(loop):
    async def main():
        await loop.run_in_executor(None, int)
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="^Executor shutdown has been called$"):
            loop.run_in_executor(None, int)

    loop.run_until_complete(main())


def test_shutdown_waits_for_running_work(loop):
    done = []

    async def main():
        release = threading.Event()

        def work():
            release.wait(60)
            done.append(1)

        loop.run_in_executor(None, work)
        loop.call_later(0.02, release.set)
        await loop.shutdown_default_executor()

    loop.run_until_complete(main())
    assert done == [1]


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="early releases of Python 3.12 join the threads all the same"
)
def test_shutdown_with_a_timeout(loop):
    release = threading.Event()

    async def main():
        work = loop.run_in_executor(None, release.wait, 60)
        with pytest.warns(RuntimeWarning, match="did not finishing? joining its threads within"):
            await loop.shutdown_default_executor(timeout=0.05)
        release.set()
        assert await work is True

    loop.run_until_complete(main())


def test_close_does_not_wait_for_running_work(loop_factory):
    loop = loop_factory()
    release = threading.Event()
    worker, released = [], []

    def work():
        worker.append(threading.current_thread())
        released.append(release.wait(60))

    async def main():
        loop.run_in_executor(None, work)
        while not worker:
            await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    loop.close()
    release.set()
    worker[0].join()
    assert released == [True]


async def test_getaddrinfo(loop):
    infos = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert infos == socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    with pytest.raises(socket.gaierror):
        await loop.getaddrinfo("not an address", 80, flags=socket.AI_NUMERICHOST)


async def test_getnameinfo(loop):
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert await loop.getnameinfo(("127.0.0.1", 80), flags) == ("127.0.0.1", "80")
