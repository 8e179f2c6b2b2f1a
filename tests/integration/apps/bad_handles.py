"""Long chains of handles, handles with private attributes of their bases, and nested runs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from scenario import (
    CASES,
    Client,
    Errors,
    Recorder,
    async_case,
    case,
    check_service,
    main,
    new_event_loop,
    serving,
)

__all__ = ["CASES"]

MANY = 100_000
FAR = 3600.0


def new_quiet_loop() -> asyncio.AbstractEventLoop:
    """One that does not note for each handle where it was made, which takes long."""
    loop = new_event_loop()
    loop.set_debug(False)
    return loop


def schedules(loop: asyncio.AbstractEventLoop) -> list[Callable[..., asyncio.Handle]]:
    return [
        loop.call_soon,
        loop.call_soon_threadsafe,
        lambda *args: loop.call_later(FAR, *args),
        lambda *args: loop.call_at(loop.time() + FAR, *args),
    ]


def chain(schedule: Callable[..., asyncio.Handle], wrap: Callable[[Any], Any]) -> asyncio.Handle:
    """The last of many handles, each of which has the one before in its arguments."""
    handle = schedule(print)
    for _ in range(MANY):
        handle = schedule(print, wrap(handle))
    return handle


@case
def chains_of_handles() -> None:
    """They go with the loop, when the last one is dropped, or when they are found to be garbage."""
    for number in (0, 3):
        for wrap in (lambda handle: handle, lambda handle: [handle]):
            loop = new_quiet_loop()
            last = chain(schedules(loop)[number], wrap)
            loop.close()
            del last
            loop = new_quiet_loop()
            chain(schedules(loop)[number], wrap)
            loop.close()
    for number in range(4):
        loop = new_quiet_loop()
        holder: list[Any] = []
        holder.append(
            chain(schedules(loop)[number], lambda handle, holder=holder: (holder, handle))
        )
        loop.close()
        del loop, holder
        gc.collect()


@case
def chains_of_cancelled_handles() -> None:
    for number in range(4):
        loop = new_quiet_loop()
        last = chain(schedules(loop)[number], lambda handle: handle)
        last.cancel()
        loop.close()


@case
def chains_of_native_coroutines() -> None:
    """Each is kept by an argument of the next."""

    class Room(bytearray):
        before: object = None

    loop = new_quiet_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    waiting: Any = None
    for _ in range(MANY):
        room = Room(4)
        room.before = waiting
        waiting = loop.sock_recv_into(ours, room)
        # One that has begun waits for the loop, which holds it.
        waiting.close()
        waiting = [waiting, loop.sock_sendall(ours, room)]
        waiting[1].close()
    del room, waiting
    waiting = None
    for _ in range(MANY):
        room = Room(4)
        room.before = waiting
        waiting = loop.sock_recv_into(ours, room)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del room, waiting
    loop.close()
    ours.close()
    theirs.close()


@case
def chains_of_stream_objects() -> None:
    if not hasattr(new_event_loop(), "stats"):
        return
    from hybridloop import _core

    for name, attribute in [
        ("StreamReaderCore", "_transport"),
        ("StreamProtocolCore", "_drain_waiters"),
        ("StreamWriterCore", "_transport"),
        ("TlsCore", "_transport"),
    ]:
        before = None
        for _ in range(MANY):
            made = getattr(_core, name)()
            setattr(made, attribute, before)
            before = made
        del made, before


@case
def attributes_of_the_bases() -> None:
    """The descriptors of asyncio's classes have words of their own in each handle."""

    class Payload:
        pass

    loop = new_event_loop()
    for schedule in schedules(loop):
        for base in (asyncio.Handle, asyncio.TimerHandle, type(schedule(print)).__mro__[1]):
            for name in (*asyncio.Handle.__slots__, *base.__slots__):
                if name == "__weakref__":
                    continue
                descriptor = getattr(base, name)
                handle = schedule(print, "argument")
                if not isinstance(handle, descriptor.__objclass__):
                    continue
                payload = Payload()
                gone = weakref.ref(payload)
                descriptor.__set__(handle, payload)
                assert descriptor.__get__(handle) is payload
                gc.collect()
                repr(handle)
                assert handle._args in (("argument",), payload)
                handle.cancel()
                del payload, handle
                loop.call_soon(loop.stop)
                loop.run_forever()
                gc.collect()
                if not loop.is_closed() and schedule == loop.call_soon:
                    assert gone() is None, (schedule, name)
    # What a handle carries does not get into the next.
    handles = [loop.call_soon(int) for _ in range(100)]
    for handle in handles:
        asyncio.Handle._callback.__set__(handle, Payload())  # type: ignore[attr-defined]
    del handle, handles
    loop.call_soon(loop.stop)
    loop.run_forever()
    for _ in range(100):
        handle = loop.call_soon(int)
        if hasattr(loop, "stats"):
            with contextlib.suppress(AttributeError):
                assert not asyncio.Handle._callback.__get__(handle)  # type: ignore[attr-defined]
    loop.close()


@case
def cycles_through_attributes_of_the_bases() -> None:
    class Payload:
        handle: object

    loop = new_event_loop()
    references = []
    for schedule in schedules(loop):
        payload = Payload()
        payload.handle = schedule(print)
        asyncio.Handle._source_traceback.__set__(payload.handle, payload)  # type: ignore[attr-defined]
        references.append(weakref.ref(payload))
    del payload
    loop.close()
    del loop, schedule
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


@case
def repr_that_drops_the_loop() -> None:
    """`cancel()` in debug mode asks the callback for its text, which ends the loop."""

    class Callback:
        loop: Any = None

        def __init__(self, end: str) -> None:
            self.end = end

        def __call__(self) -> None:
            pass

        def __repr__(self) -> str:
            loop = self.__dict__.pop("loop", None)
            if loop is not None and self.end != "drop":
                if self.end == "run":
                    loop.call_soon(loop.stop)
                    loop.run_forever()
                loop.close()
            del loop
            gc.collect()
            return "text"

    for end in ("close", "run", "drop"):
        for number in range(4):
            loop = new_event_loop()
            loop.set_debug(True)
            callback = Callback(end)
            callback.loop = loop
            handle = schedules(loop)[number](callback)
            del loop
            handle.cancel()
            assert handle.cancelled()
            del handle, callback
            gc.collect()


@case
def iterations_within_iterations() -> None:
    """`_run_once()` in callbacks; that of a reader is called while it is ready again."""
    loop = new_event_loop()
    reports: list[Any] = []
    loop.set_exception_handler(lambda _loop, report: reports.append(report))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    depth = 0
    calls: list[object] = []

    class Argument:
        alive = True

        def __del__(self) -> None:
            self.alive = False

    def callback(argument: Argument) -> None:
        nonlocal depth
        depth += 1
        calls.append(depth)
        if depth < 3:
            loop.call_soon(calls.append, "soon")
            loop._run_once()  # type: ignore[attr-defined]
        if depth == 3 or len(calls) > 20:
            loop.remove_reader(ours)
        gc.collect()
        assert argument.alive
        depth -= 1

    loop.add_reader(ours, callback, Argument())
    theirs.send(b"x")
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    loop.remove_reader(ours)
    assert "soon" in calls
    for schedule in (loop.call_soon, lambda *args: loop.call_later(0, *args)):
        depth = 0
        schedule(callback, Argument())
        loop.call_later(0.05, loop.stop)
        loop.run_forever()
    loop.close()
    ours.close()
    theirs.close()


@async_case
async def iterations_within_protocols(errors: Errors) -> None:
    """`_run_once()` in each method of a protocol, while its transport reads, writes or closes."""
    loop: Any = asyncio.get_running_loop()

    def iterate() -> None:
        loop.call_soon(int)
        loop._run_once()

    class Nested(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            iterate()
            super().connection_made(transport)
            iterate()

        def data_received(self, data: bytes) -> None:
            iterate()
            super().data_received(data)
            iterate()

        def connection_lost(self, exc: BaseException | None) -> None:
            iterate()
            super().connection_lost(exc)

    async with serving(Nested) as port:
        for _ in range(3):
            client = Client(port)
            assert await client.ask(b"data") == b"data"
            client.close()
        await check_service(port)
    assert errors.contexts == []


@case
def handles_that_are_run_twice() -> None:
    """A handle that was added again, and runs within its own run."""
    loop = new_event_loop()
    calls: list[bytes] = []

    def callback(argument: bytearray) -> None:
        calls.append(bytes(argument))
        if len(calls) == 1:
            loop._add_callback(handle)  # type: ignore[attr-defined]
            loop.call_soon(int)
            loop._run_once()  # type: ignore[attr-defined]
            handle.cancel()
        gc.collect()
        assert argument == b"argument"

    for schedule in (loop.call_soon, lambda *args: loop.call_later(0, *args)):
        calls.clear()
        handle = schedule(callback, bytearray(b"argument"))
        loop.call_later(0.02, loop.stop)
        loop.run_forever()
        assert calls
    loop.close()


@case
def a_timer_that_is_added_as_ready() -> None:
    """Cancelled before and after it has run out of order, thousands of times."""
    loop = new_event_loop()
    for number in range(5000):
        timer = loop.call_later(FAR, int)
        if number % 3:
            loop._add_callback(timer)  # type: ignore[attr-defined]
        if number % 2:
            timer.cancel()
        if number % 50 == 0:
            loop.call_soon(loop.stop)
            loop.run_forever()
        timer.cancel()
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()


@case
def an_iteration_without_a_run() -> None:
    """`_run_once()` of a loop that does not run is one iteration."""
    loop = new_event_loop()
    calls: list[int] = []

    def again() -> None:
        calls.append(1)
        loop.call_soon(again)

    loop.call_soon(again)
    loop._run_once()  # type: ignore[attr-defined]
    assert calls == [1]
    loop._run_once()  # type: ignore[attr-defined]
    assert calls == [1, 1]
    loop.close()
    with contextlib.suppress(Exception):
        loop._run_once()  # type: ignore[attr-defined]


@async_case
async def closing_from_within(errors: Errors) -> None:
    """A loop cannot be closed in its own callbacks, whatever is called."""
    loop: Any = asyncio.get_running_loop()
    refused: list[str] = []
    done = loop.create_future()
    ours, theirs = socket.socketpair()

    def close() -> None:
        for method in (loop.close, getattr(loop, "_close_core", loop.close), loop.run_forever):
            try:
                method()
            except RuntimeError as error:
                refused.append(str(error))

    def close_and_remove() -> None:
        close()
        loop.remove_reader(ours)
        done.set_result(None)

    loop.call_soon(close)
    loop.call_later(0, close)
    loop.add_reader(ours, close_and_remove)
    theirs.send(b"x")
    await done
    await asyncio.sleep(0.01)
    assert len(refused) == 9, refused
    ours.close()
    theirs.close()
    assert errors.contexts == []


@case
def closing_in_an_iteration_without_a_run() -> None:
    """It is refused as in a run."""
    loop: Any = new_event_loop()
    ours, theirs = socket.socketpair()
    refused = []

    def close() -> None:
        for name in ("close", "_close_core", "run_forever"):
            try:
                getattr(loop, name)()
            except (RuntimeError, AttributeError):
                refused.append(name)

    if not hasattr(loop, "_close_core"):
        return
    loop.add_reader(ours, close)
    loop.call_soon(close)
    theirs.send(b"x")
    loop._run_once()
    assert len(refused) == 6
    loop.close()
    assert loop.is_closed()
    ours.close()
    theirs.close()


def stop(loop: asyncio.AbstractEventLoop) -> None:
    """From another thread, and without a callback that would have to run."""
    loop.stop()
    loop.call_soon_threadsafe(int)


@case
def runs_that_are_replaced() -> None:
    """`Handle._run` of a program that runs twice or cancels."""
    original = asyncio.events.Handle._run
    loop = new_event_loop()
    loop.set_exception_handler(lambda _loop, _report: None)

    def twice(handle: Any) -> None:
        original(handle)
        if not handle._cancelled:
            original(handle)

    def cancel(handle: Any) -> None:
        handle.cancel()
        gc.collect()
        with contextlib.suppress(TypeError):
            original(handle)

    for run in (twice, cancel):
        asyncio.events.Handle._run = run  # type: ignore[method-assign]
        try:
            for _ in range(10):
                loop.call_soon(bytearray, 1)
                loop.call_later(0, bytearray, 1)
                loop.call_soon_threadsafe(bytearray, 1)
            stopper = threading.Timer(0.02, stop, (loop,))
            stopper.start()
            loop.run_forever()
            stopper.join()
        finally:
            asyncio.events.Handle._run = original  # type: ignore[method-assign]
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()


if __name__ == "__main__":
    main()
