"""Callbacks, threads and calls that a loop must survive."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

from scenario import (
    CASES,
    Client,
    Errors,
    Expected,
    Recorder,
    async_case,
    case,
    check_service,
    main,
    new_event_loop,
    serving,
    until,
)

__all__ = ["CASES"]


@async_case
async def callbacks_raise(errors: Errors) -> None:
    """Everything but SystemExit and KeyboardInterrupt goes to the exception handler."""

    class Odd(BaseException):
        pass

    def fail(kind: type[BaseException]) -> None:
        raise kind

    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    kinds: list[type[BaseException]] = [Expected, Odd, GeneratorExit, asyncio.CancelledError]
    for kind in kinds:
        loop.call_soon(fail, kind)
        loop.call_later(0.001, fail, kind)
        loop.call_soon_threadsafe(fail, kind)
        await errors.wait_for(kind, 3)
        loop.add_writer(ours, fail, kind)
        await until(lambda kind=kind: len(errors.of(kind)) > 3)
        loop.remove_writer(ours)
    ours.close()
    theirs.close()
    # One that cannot be called is reported in the same way, unless it is refused at once.
    try:
        loop.call_soon(None)  # type: ignore[arg-type]
    except TypeError:
        pass
    else:
        await errors.wait_for(TypeError)


@async_case
async def exception_handler_raises(errors: Errors) -> None:
    loop = asyncio.get_running_loop()
    calls: list[object] = []

    def bad_handler(_loop: object, context: dict[str, Any]) -> None:
        calls.append(context)
        raise Expected

    loop.set_exception_handler(bad_handler)
    loop.call_soon(lambda: 1 / 0)
    await until(lambda: calls)
    async with serving(Recorder) as port:
        await check_service(port)


@async_case
async def transports_in_other_threads(errors: Errors) -> None:
    """Asking a transport from other threads while its loop works, and after its end."""
    protocols: list[Recorder] = []

    def factory() -> Recorder:
        protocols.append(Recorder())
        return protocols[-1]

    end = threading.Event()
    failures: list[BaseException] = []

    def ask_on_and_on() -> None:
        try:
            while not end.wait(0.0001):
                for protocol in protocols:
                    if hasattr(protocol, "transport"):
                        ask_everything(protocol.transport)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=ask_on_and_on) for _ in range(3)]
    interval = sys.getswitchinterval()
    # Threads take turns often, which makes them meet, and none waits long for its own.
    sys.setswitchinterval(1e-5)
    async with serving(factory) as port:
        for thread in threads:
            thread.start()
        try:
            for round_number in range(3):
                clients = [Client(port) for _ in range(5)]
                for client in clients:
                    assert await client.ask(b"data" * 1000) == b"data" * 1000
                for number, client in enumerate(clients):
                    (client.reset if number % 2 else client.close)()
                await until(lambda count=(round_number + 1) * 5: len(protocols) == count)
                await until(lambda: all(protocol.lost for protocol in protocols))
        finally:
            end.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(interval)
    assert not failures, failures
    assert errors.contexts == []


@async_case
async def socket_asked_for_by_threads_at_once(errors: Errors) -> None:
    """The first questions for a connection's socket come together; it must stay one socket."""
    threads = 4
    protocols: list[Recorder] = []
    clients: list[Client] = []
    answers: list[list[Any]] = []
    together = threading.Barrier(threads)

    def factory() -> Recorder:
        protocols.append(Recorder())
        return protocols[-1]

    def ask() -> list[Any]:
        together.wait(60.0)
        return [protocol.transport.get_extra_info("socket") for protocol in protocols]

    interval = sys.getswitchinterval()
    try:
        async with serving(factory) as port:
            for count in range(20, 220, 20):
                clients += [Client(port) for _ in range(20)]
                await until(lambda count=count: len(protocols) == count)
                await until(lambda: all(each.calls for each in protocols))
                sys.setswitchinterval(1e-6)
                answers += await asyncio.gather(*[asyncio.to_thread(ask) for _ in range(threads)])
                sys.setswitchinterval(interval)
            answers.clear()
            gc.collect()
            for number, client in enumerate(clients):
                assert await client.ask(b"%4d" % number) == b"%4d" % number
                client.close()
            await until(lambda: all(protocol.lost for protocol in protocols))
    finally:
        sys.setswitchinterval(interval)
    assert errors.contexts == []


def ask_everything(transport: asyncio.Transport) -> None:
    for name in ("peername", "sockname", "socket", "nothing of the kind"):
        transport.get_extra_info(name)
    transport.is_closing()
    transport.is_reading()
    transport.get_write_buffer_size()
    transport.get_write_buffer_limits()
    transport.get_protocol()
    with contextlib.suppress(AttributeError):
        # asyncio's own `repr` is not made for a transport that ends meanwhile.
        repr(transport)


class Cycle:
    """Holds handles that hold it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.soon = loop.call_soon(self.callback, self)
        self.later = loop.call_later(60, self.callback, self)
        self.later.cancel()

    def callback(self, _other: Cycle) -> None:
        pass


@async_case
async def collected_in_other_threads(errors: Errors) -> None:
    """The last references to handles, transports and protocols go away in other threads."""
    loop = asyncio.get_running_loop()
    end = threading.Event()

    def collect_on_and_on() -> None:
        while not end.wait(0.0001):
            gc.collect()

    thread = threading.Thread(target=collect_on_and_on)
    thread.start()
    try:
        async with serving(Recorder) as port:
            for _ in range(20):
                client = Client(port)
                assert await client.ask(b"data") == b"data"
                client.close()
                for _ in range(20):
                    Cycle(loop)
                handles = [loop.call_later(60, print) for _ in range(20)]
                for handle in handles:
                    handle.cancel()
                await asyncio.to_thread(handles.clear)
    finally:
        end.set()
        thread.join()
    assert errors.contexts == []


@async_case
async def transports_called_from_the_wrong_thread(errors: Errors) -> None:
    """It is not allowed and may raise, but it must not take the process down."""
    protocols: list[Recorder] = []

    def factory() -> Recorder:
        protocols.append(Recorder())
        return protocols[-1]

    def misuse(transport: asyncio.Transport) -> None:
        for call in (transport.pause_reading, transport.resume_reading, transport.close):
            try:
                call()
            except RuntimeError:
                pass

    async with serving(factory) as port:
        for _ in range(20):
            client = Client(port)
            assert await client.ask(b"data") == b"data"
            await asyncio.to_thread(misuse, protocols[-1].transport)
            client.close()
        await check_service(port)


@async_case
async def wrong_arguments(errors: Errors) -> None:
    loop = asyncio.get_running_loop()
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    async with serving(factory) as port:
        client = Client(port)
        assert await client.ask(b"data") == b"data"
        transport = made[0].transport
        refused: list[tuple[type[Exception], Callable[[], object]]] = [
            (TypeError, lambda: transport.write("text")),  # type: ignore[arg-type]
            (TypeError, lambda: transport.write(None)),  # type: ignore[arg-type]
            (TypeError, lambda: transport.write(3)),  # type: ignore[arg-type]
            (TypeError, lambda: transport.writelines(3)),  # type: ignore[arg-type]
            (TypeError, lambda: transport.writelines(["text"])),  # type: ignore[list-item]
            (ValueError, lambda: transport.set_write_buffer_limits(-1)),
            (ValueError, lambda: transport.set_write_buffer_limits(1, 2)),
            (TypeError, lambda: loop.call_later("soon", print)),  # type: ignore[arg-type]
            (TypeError, lambda: loop.call_later(None, print)),  # type: ignore[arg-type]
            (TypeError, lambda: loop.call_at(None, print)),  # type: ignore[arg-type]
            (ValueError, lambda: loop.add_reader(-1, print)),
            (ValueError, lambda: loop.add_reader("text", print)),  # type: ignore[arg-type]
            (OSError, lambda: loop.add_reader(9999, print)),
            (RuntimeError, loop.close),
        ]
        for number, (kind, call) in enumerate(refused):
            try:
                call()
            except kind:
                continue
            raise AssertionError(f"{number}: no {kind.__name__}")
        assert await client.ask(b"still served") == b"still served"
        client.close()


@async_case
async def extreme_delays(errors: Errors) -> None:
    loop = asyncio.get_running_loop()
    ran: list[float] = []
    never = [float("inf"), 1e300, 1e18, 10**30, 2**63, 2**64]
    handles = [loop.call_later(delay, ran.append, delay) for delay in never]
    handles += [loop.call_at(when, ran.append, when) for when in never]
    at_once = [float("-inf"), -1e300, -(10**30), -1, -0.0, 0, 1e-300]
    for delay in at_once:
        loop.call_later(delay, ran.append, delay)
    await asyncio.sleep(0.05)
    assert sorted(ran) == sorted(at_once)
    for handle in handles:
        repr(handle)
        handle.cancel()
    assert errors.contexts == []


@case
def use_after_close() -> None:
    """Transports, handles and servers of a closed loop refuse or do nothing."""
    loop = new_event_loop()
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    async def connect() -> tuple[Any, Any]:
        server = await loop.create_server(factory, "127.0.0.1", 0)
        client = Client(server.sockets[0].getsockname()[1])
        assert await client.ask(b"data") == b"data"
        return server, client

    with warnings.catch_warnings(action="ignore"):
        server, client = loop.run_until_complete(connect())
        timer = loop.call_later(60, print)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        loop.close()
        transport = made[0].transport
        calls: list[Callable[[], object]] = [
            lambda: transport.write(b"data"),
            lambda: ask_everything(transport),
            transport.pause_reading,
            transport.resume_reading,
            transport.close,
            transport.abort,
            timer.cancel,
            lambda: repr(timer),
            server.close,
            lambda: loop.call_soon(print),
            lambda: loop.call_later(1, print),
            lambda: loop.call_soon_threadsafe(print),
            lambda: loop.add_reader(0, print),
            lambda: loop.remove_reader(0),
            loop.run_forever,
            loop.stop,
        ]
        for call in calls:
            try:
                call()
            except (RuntimeError, OSError, AttributeError):
                pass
        client.close()
        calls.clear()
        call = transport = server = loop = timer = None  # type: ignore[assignment]
        made.clear()
        gc.collect()


@async_case
async def descriptor_closed_behind_the_loop(errors: Errors) -> None:
    """Somebody else closes the descriptor of a transport and of a reader."""
    loop = asyncio.get_running_loop()
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    async with serving(factory) as port:
        client = Client(port)
        assert await client.ask(b"data") == b"data"
        spare = socket.socket()
        fd = made[0].transport.get_extra_info("socket").fileno()
        # The number stays taken, so that nothing else is closed in its place.
        os.dup2(spare.fileno(), fd)
        made[0].transport.write(b"to nowhere")
        await asyncio.sleep(0)
        made[0].transport.abort()
        await until(lambda: made[0].lost)
        client.close()
        ours, theirs = socket.socketpair()
        loop.add_reader(ours, print)
        ours.close()
        await asyncio.sleep(0.001)
        theirs.close()
        spare.close()
        await check_service(port)


@async_case
async def forked_child_leaves_the_loop_alone(errors: Errors) -> None:
    """A child made inside the running loop ends without harm to its parent's connections."""
    async with serving(Recorder) as port:
        client = Client(port)
        assert await client.ask(b"before") == b"before"
        with warnings.catch_warnings(action="ignore"):
            pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(asyncio.sleep(0)) if False else gc.collect()
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert await client.ask(b"after") == b"after"
        client.close()
        await check_service(port)


@async_case
async def stopped_in_a_protocol(errors: Errors) -> None:
    """`loop.stop()` in a callback of a transport ends the iteration, not the connection."""
    inner = new_event_loop()

    def nested() -> None:
        class Stopping(Recorder):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                inner.stop()

        ours, theirs = socket.socketpair()
        theirs.settimeout(60.0)
        inner.run_until_complete(inner.create_connection(Stopping, sock=ours))  # type: ignore[arg-type]
        for _ in range(3):
            theirs.send(b"data")
            inner.run_forever()
            inner.run_until_complete(asyncio.sleep(0))
            assert theirs.recv(100) == b"data"
        theirs.close()
        inner.run_until_complete(asyncio.sleep(0.01))
        inner.close()

    await asyncio.to_thread(nested)
    assert errors.contexts == []


@async_case
async def numbers_of_no_descriptor(errors: Errors) -> None:
    """A large number is refused by the system, and costs no memory that grows with it."""

    class Numbered:
        def __init__(self, number: int) -> None:
            self.number = number

        def fileno(self) -> int:
            return self.number

        def gettimeout(self) -> float:
            return 0.0

        def recv(self, size: int) -> bytes:
            raise BlockingIOError

    loop = asyncio.get_running_loop()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in (10**8, 2**31 - 1):
        for add, remove in (
            (loop.add_reader, loop.remove_reader),
            (loop.add_writer, loop.remove_writer),
        ):
            try:
                add(number, print)
            except OSError as error:
                assert error.errno == errno.EBADF
            else:
                raise AssertionError("a number of no descriptor is watched")
            assert remove(number) is False
        try:
            await loop.sock_recv(Numbered(number), 10)  # type: ignore[arg-type]
        except OSError as error:
            assert error.errno == errno.EBADF
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * 1024, f"{grown} KiB"
    async with serving(Recorder) as port:
        await check_service(port)


if __name__ == "__main__":
    main()
