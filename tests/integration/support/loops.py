"""The event loop under test, and the ways to put a server and a client on it."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

from tests.support.descriptors import name_of, open_fds

T = TypeVar("T")
Serve = Callable[[], AbstractAsyncContextManager[T]]

LOOP_NAME = os.environ.get("HYBRIDLOOP_TEST_LOOP", "hybridloop")
"""Module whose `new_event_loop` makes the loop under test: hybridloop, asyncio or uvloop."""

LOOP_FACTORY_PATH = f"{LOOP_NAME}:new_event_loop"
"""The same as an import string, as command lines take it."""

ROLES = ("server", "client", "both")
"""Which side runs on the loop under test; the other one runs on stock asyncio in a thread."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = importlib.import_module(LOOP_NAME).new_event_loop()
    return loop


def loop_class_path() -> str:
    """`module.Class` of the loop under test, to compare with what a server says it runs on."""
    loop = new_event_loop()
    loop.close()
    return f"{type(loop).__module__}.{type(loop).__qualname__}"


def wait_until(condition: Callable[[], Any], timeout: float = 60.0, what: str = "") -> Any:
    """Call `condition` until it returns something true, and return that."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not reached within {timeout} s: {what or condition}")
        time.sleep(0.01)


async def wait_until_async(condition: Callable[[], Any], timeout: float = 60.0) -> Any:
    async with asyncio.timeout(timeout):
        while not (value := condition()):
            await asyncio.sleep(0.005)
    return value


@contextmanager
def fds_return_to_start(timeout: float = 60.0) -> Iterator[None]:
    """The process holds no more file descriptors at the end than at the start."""
    gc.collect()
    start = open_fds()
    yield
    deadline = time.monotonic() + timeout
    while left := open_fds() - start:
        gc.collect()
        shown = {fd: name_of(fd) for fd in left}
        assert time.monotonic() < deadline, f"descriptors left open: {shown}"
        time.sleep(0.01)


def run_on_loop(main: Coroutine[Any, Any, T], *, timeout: float = 120.0) -> T:
    """Run `main` on the loop under test; what reaches the exception handler is a failure."""
    errors: list[dict[str, Any]] = []
    with fds_return_to_start():
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.get_loop().set_exception_handler(lambda _loop, context: errors.append(context))
            result = runner.run(_bounded(main, timeout))
        assert not errors, errors
    return result


async def _bounded(main: Awaitable[T], timeout: float) -> T:
    async with asyncio.timeout(timeout):
        return await main


def run_roles(
    role: str,
    serve: Serve[T],
    client: Callable[[T], Coroutine[Any, Any, None]],
    *,
    timeout: float = 120.0,
) -> None:
    """Run `client` against `serve`, with the sides that `role` names on the loop under test."""
    if role == "client":
        with _serving_in_thread(serve) as address:
            run_on_loop(client(address), timeout=timeout)
    elif role == "server":

        async def server_side() -> None:
            async with serve() as address:
                await asyncio.to_thread(run_stock, client(address), timeout)

        run_on_loop(server_side(), timeout=timeout)
    else:

        async def both_sides() -> None:
            async with serve() as address:
                await client(address)

        run_on_loop(both_sides(), timeout=timeout)


def run_stock(main: Coroutine[Any, Any, T], timeout: float = 120.0) -> T:
    """`asyncio.run` on stock asyncio, whatever policy is installed."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(_bounded(main, timeout))


@contextmanager
def _serving_in_thread(serve: Serve[T]) -> Iterator[T]:
    addresses: list[T] = []
    errors: list[BaseException] = []
    started = threading.Event()
    control: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        stop = asyncio.Event()
        async with serve() as address:
            addresses.append(address)
            control.append((asyncio.get_running_loop(), stop))
            started.set()
            await stop.wait()

    def target() -> None:
        try:
            run_stock(main(), 300.0)
        except BaseException as exc:
            errors.append(exc)
        finally:
            started.set()

    thread = threading.Thread(target=target, name="stock-asyncio-server", daemon=True)
    thread.start()
    assert started.wait(60.0), "server thread did not start"
    try:
        if addresses:
            yield addresses[0]
    finally:
        for loop, stop in control:
            loop.call_soon_threadsafe(stop.set)
        thread.join(60.0)
    assert not thread.is_alive(), "server thread did not stop"
    assert not errors, errors


async def iterate_chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
        await asyncio.sleep(0)
