"""How connections end, and which callbacks are called."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

from hybridloop import parallel
from tests.support.waiting import until

from .support import Running, read_all, read_exactly, reset, serving


class TestEnds:
    def test_a_reset_is_a_loss(self) -> None:
        seen: list[Any] = []

        class Protocol:
            def data_received(self, transport: Any, data: bytes) -> bytes:
                return data

            def connection_lost(self, transport: Any, op: int) -> None:
                seen.append(op)

        with serving(Protocol) as running:
            sock = running.connect()
            sock.sendall(b"x")
            assert read_exactly(sock, 1) == b"x"
            reset(sock)
            until(lambda: seen)
        assert seen == [parallel.IoOp.RECV]

    def test_what_could_not_be_sent(self) -> None:
        failed: list[bytes] = []

        class Protocol:
            def data_received(self, transport: Any, data: bytes) -> bytes:
                return b"x" * (32 << 20)

            def send_failed(self, transport: Any, data: bytes) -> None:
                failed.append(data)

            def connection_lost(self, transport: Any, op: int) -> None:
                failed.append(b"%d" % op)

        with serving(Protocol) as running:
            sock = running.connect()
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            reset(sock)
            until(lambda: len(failed) == 2)
        assert len(failed[0]) == 32 << 20 and failed[1] == b"4"

    def test_nothing_happens_for_too_long(self) -> None:
        seen: list[Any] = []
        quiet: list[float] = []

        class Protocol:
            def connection_made(self, transport: Any, data: bytes) -> None:
                self.last = time.monotonic()

            def data_received(self, transport: Any, data: bytes) -> bytes:
                self.last = time.monotonic()
                return data

            def connection_timeout(self, transport: Any, op: int) -> None:
                quiet.append(time.monotonic() - self.last)
                seen.append((op, transport.sock_timeout))

        def stays_open(sock: socket.socket) -> bool:
            """Send something now and then; a busy machine is late at times."""
            begin = time.monotonic()
            try:
                while time.monotonic() < begin + 0.25:
                    sock.sendall(b"x")
                    if not sock.recv(1):
                        return False
                    time.sleep(0.02)
            except ConnectionError:
                return False
            return True

        with serving(Protocol, timeout=0.1) as running:
            for _ in range(100):
                with running.connect() as sock:
                    if stays_open(sock):
                        # Until nothing is sent any more.
                        with contextlib.suppress(ConnectionResetError):
                            assert read_all(sock).strip(b"x") == b""
                        break
            else:
                raise AssertionError("what is sent does not keep the connection open")
        assert seen[-1] == (parallel.IoOp.RECV, 0.1)
        assert min(quiet) > 0.09

    def test_closing_by_a_callback_sends_first_what_it_returns(self) -> None:
        class Protocol:
            def data_received(self, transport: Any, data: bytes) -> bytes:
                transport.close()
                return b"x" * 5_000_000

        with serving(Protocol) as running, running.connect() as sock:
            sock.sendall(b"x")
            assert len(read_all(sock)) == 5_000_000

    def test_closing_from_another_thread(self) -> None:
        transports: list[Any] = []

        class Protocol:
            def connection_made(self, transport: Any, data: bytes) -> None:
                transports.append(transport)

            def data_received(self, transport: Any, data: bytes) -> None:
                pass

        with serving(Protocol) as running, running.connect() as sock:
            until(lambda: transports)
            transports[0].close()
            transports[0].close()
            assert sock.recv(1) == b""
        transports[0].close()

    def test_a_sender_without_end_is_closed(self) -> None:
        class Chargen:
            def initial_bytes_to_send(self) -> bytes:
                return b"0"

            def send_complete(self, transport: Any, send_id: int) -> bytes:
                if send_id == 1000:
                    transport.close()
                return b"%d" % send_id

        with serving(Chargen) as running, running.connect() as sock:
            data = read_all(sock)
        assert data == b"0" + b"".join(b"%d" % n for n in range(1, 1001))

    def test_a_callback_shuts_the_server_down(self) -> None:
        class Protocol:
            def data_received(self, transport: Any, data: bytes) -> bytes:
                transport.shutdown_server()
                return b"bye"

        running = Running(Protocol)
        with running.connect() as idle, running.connect() as sock:
            sock.sendall(b"end")
            assert read_all(sock) == b"bye"
            assert idle.recv(1) == b""
        running.thread.join(60)
        assert not running.thread.is_alive() and not running.errors

        def is_refused() -> bool:
            try:
                running.connect().close()
            except ConnectionRefusedError:
                return True
            return False

        # The port may be somebody else's by now.
        until(is_refused)

    def test_a_peer_that_does_not_read_does_not_hold_the_end_up(self) -> None:
        class Protocol:
            def connection_made(self, transport: Any, data: bytes) -> bytes:
                return b"x" * (32 << 20)

        running = Running(Protocol)
        with running.connect() as sock:
            assert sock.recv(1) == b"x"
            running.server.shutdown(timeout=0.05)
            running.thread.join(60)
            assert not running.thread.is_alive() and not running.errors
        assert running.server.num_children == 0
