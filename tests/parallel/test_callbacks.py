"""Callbacks of servers: when they are called, what they return, and what they raise."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from hybridloop import parallel
from tests.support.waiting import until

from .support import read_all, read_exactly, reset, serving


@pytest.mark.parametrize(
    "given",
    [b"bytes", bytearray(b"bytes"), "bytes", lambda self: b"bytes"],
    ids=["bytes", "bytearray", "str", "function"],
)
def test_initial_bytes_and_then_the_end(given: Any) -> None:
    class Says:
        initial_bytes_to_send = given

    with serving(Says) as running:
        with running.connect() as sock:
            assert read_all(sock) == b"bytes"
        with running.connect() as sock:
            # Nothing that comes is of interest.
            sock.sendall(b"?")
            assert read_all(sock) == b"bytes"


def test_a_class_without_callbacks_disconnects() -> None:
    class Disconnect:
        pass

    with serving(Disconnect) as running, running.connect() as sock:
        assert read_all(sock) == b""


@pytest.mark.parametrize("given", [b"next!", lambda self: "next!"], ids=["bytes", "function"])
def test_next_bytes_answer_whatever_comes(given: Any) -> None:
    class Next:
        initial_bytes_to_send = b"first"
        next_bytes_to_send = given

        def data_received(self, transport: Any, data: bytes) -> None:
            raise AssertionError("not with next_bytes_to_send")

    with serving(Next) as running, running.connect() as sock:
        assert read_exactly(sock, 5) == b"first"
        for _ in range(3):
            sock.sendall(b"something")
            assert read_exactly(sock, 5) == b"next!"


def test_each_connection_has_an_instance_and_callbacks_see_the_order() -> None:
    log: list[Any] = []

    class Protocol(parallel.Protocol):
        initial_bytes_to_send = "initial,"

        def __init__(self) -> None:
            self.count = 0

        def connection_made(self, transport: Any, data: bytes) -> str:
            assert data == b"" and transport.protocol is self
            log.append("made")
            return "made,"

        def data_received(self, transport: Any, data: bytes) -> str:
            self.count += 1
            log.append(("received", data))
            return f"{self.count}"

        def data_sent(self, transport: Any, data: bytes) -> None:
            log.append(("sent", data))

        def connection_closed(self, transport: Any, op: int) -> None:
            log.append(("closed", op))

    with serving(Protocol) as running:
        for _ in range(2):
            with running.connect() as sock:
                assert read_exactly(sock, 13) == b"initial,made,"
                for n in (b"1", b"2"):
                    sock.sendall(b"x")
                    assert read_exactly(sock, 1) == n
            until(lambda: log and log[-1] == ("closed", parallel.IoOp.DISCONNECT))
            assert log == [
                ("sent", b"initial,"),
                "made",
                ("sent", b"made,"),
                ("received", b"x"),
                ("sent", b"1"),
                ("received", b"x"),
                ("sent", b"2"),
                ("closed", 5),
            ]
            log.clear()


def test_connection_made_without_data_as_an_argument() -> None:
    class Protocol:
        def connection_made(self, transport: Any) -> bytes:
            return b"hello"

    with serving(Protocol) as running, running.connect() as sock:
        assert read_all(sock) == b"hello"


def test_one_thing_after_the_other_and_much_of_it() -> None:
    """What is returned is on its way to a slow peer: nothing else is called meanwhile."""
    received: list[int] = []
    overlapping: list[bytes] = []

    class Slow:
        sending = False

        def data_received(self, transport: Any, data: bytes) -> bytes:
            if self.sending:
                overlapping.append(data)
            self.sending = True
            received.append(len(data))
            return data * 100

        def data_sent(self, transport: Any, data: bytes) -> None:
            self.sending = False

    size, more = 40_000, 300_000
    with serving(Slow) as running, running.connect() as sock:
        sock.sendall(b"a" * size)
        until(lambda: received)
        sender = threading.Thread(target=sock.sendall, args=(b"b" * more,))
        sender.start()
        # What a server that does not wait would take is there.
        time.sleep(0.05)
        total = 100 * (size + more)
        count = 0
        while count < total:
            part = sock.recv(1 << 20)
            assert part, f"the end came after {count} bytes"
            count += len(part)
        sender.join()
        assert count == total and sum(received) == size + more
    assert overlapping == []


class TestErrors:
    def test_run_raises_what_nobody_takes_and_the_connection_ends(self) -> None:
        class Fails:
            def data_received(self, transport: Any, data: bytes) -> None:
                raise LookupError(data)

        with serving(Fails, errors=2) as running:
            for data in (b"one", b"two"):
                with running.connect() as sock:
                    sock.sendall(data)
                    assert read_all(sock) == b""
        assert [type(error) for error in running.errors] == [LookupError, LookupError]

    @pytest.mark.parametrize("arguments", [2, 3])
    def test_an_exception_handler_takes_it_and_the_connection_goes_on(self, arguments: int) -> None:
        seen: list[Any] = []

        class Base:
            def data_received(self, transport: Any, data: bytes) -> bytes:
                return data if data != b"bad" else int(data)  # type: ignore[return-value]

        class Two(Base):
            def exception_handler(self, transport: Any, exc: Any) -> None:
                seen.append((transport.protocol is self, exc))

        class Three(Base):
            def exception_handler(self, transport: Any, syscall: str, exc: Any) -> None:
                seen.append((syscall == "data_received", exc))

        with serving(Two if arguments == 2 else Three) as running, running.connect() as sock:
            sock.sendall(b"bad")
            until(lambda: seen)
            sock.sendall(b"good")
            assert read_exactly(sock, 4) == b"good"
        ((fine, (kind, value, traceback)),) = seen
        assert fine and kind is ValueError and isinstance(value, ValueError) and traceback

    def test_a_handler_that_fails_is_raised_by_run(self) -> None:
        class Fails:
            def data_received(self, transport: Any, data: bytes) -> None:
                raise OSError

            def exception_handler(self, transport: Any, exc: Any) -> None:
                raise KeyError("in the handler")

        class Returns(Fails):
            def exception_handler(self, transport: Any, exc: Any) -> Any:
                return 1

        for protocol, kind in ((Fails, KeyError), (Returns, ValueError)):
            with serving(protocol, errors=1) as running, running.connect() as sock:
                sock.sendall(b"x")
                assert read_all(sock) == b""
            assert type(running.errors[0]) is kind

    @pytest.mark.parametrize("name", ["connection_made", "data_received", "initial_bytes_to_send"])
    def test_what_cannot_be_sent(self, name: str) -> None:
        def callback(self: Any, *args: Any) -> Any:
            return 5

        protocol = type("Wrong", (), {name: callback})
        with serving(protocol, errors=1) as running, running.connect() as sock:
            if name == "data_received":
                sock.sendall(b"x")
            assert read_all(sock) == b""
        assert "bytes, bytearray or str are expected, not int: 5" in str(running.errors[0])
        assert isinstance(running.errors[0], ValueError)

    def test_bytes_and_str_do_not_add_up(self) -> None:
        """As the first example of PyParallel's README has it."""

        class Hello:
            def data_received(self, transport: Any, data: bytes) -> Any:
                return b"You said: " + data + "\r\n"  # type: ignore[operator]

        with serving(Hello, errors=1) as running, running.connect() as sock:
            sock.sendall(b"x")
            assert read_all(sock) == b""
        assert isinstance(running.errors[0], TypeError)

    def test_a_class_that_cannot_be_made(self) -> None:
        class Fails:
            def __init__(self) -> None:
                raise LookupError("no instance")

        with serving(Fails, errors=1) as running, running.connect() as sock:
            try:
                assert sock.recv(1) == b""
            except ConnectionResetError:
                pass
        assert str(running.errors[0]) == "no instance"
        assert running.server.num_children == 0 and running.server.retired_clients == 1


class TestAwaiting:
    def test_async_callbacks(self) -> None:
        class Protocol:
            async def connection_made(self, transport: Any, data: bytes) -> bytes:
                await asyncio.sleep(0.01)
                return b"later;"

            async def data_received(self, transport: Any, data: bytes) -> bytes:
                await asyncio.sleep(0.01)
                return data.upper()

        with serving(Protocol) as running, running.connect() as sock:
            sock.sendall(b"early")
            assert read_exactly(sock, 11) == b"later;EARLY"

    def test_an_exception_of_an_async_callback(self) -> None:
        class Protocol:
            async def data_received(self, transport: Any, data: bytes) -> bytes:
                await asyncio.sleep(0)
                raise LookupError("async")

        with serving(Protocol, errors=1) as running, running.connect() as sock:
            sock.sendall(b"x")
            assert read_all(sock) == b""
        assert str(running.errors[0]) == "async"

    def test_the_end_of_the_connection_cancels(self) -> None:
        cancelled = threading.Event()
        begun = threading.Event()

        class Protocol:
            async def data_received(self, transport: Any, data: bytes) -> bytes:
                begun.set()
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    cancelled.set()
                    raise
                return b""

        with serving(Protocol) as running:
            sock = running.connect()
            sock.sendall(b"x")
            assert begun.wait(60)
            reset(sock)
            assert cancelled.wait(60)
