"""Clients: registered as servers are, waited for by `run()`."""

from __future__ import annotations

import errno
import socket
import threading
from typing import Any

import pytest

from hybridloop import parallel
from tests.support.waiting import until

from .support import serving


class TestClients:
    def test_a_client_talks_to_a_server(self) -> None:
        seen: list[Any] = []

        class Upper:
            def data_received(self, transport: Any, data: bytes) -> bytes:
                return data.upper()

        class Talks:
            initial_bytes_to_send = b"hello"

            def data_received(self, transport: Any, data: bytes) -> bytes | None:
                seen.append(data)
                if len(seen) == 3:
                    transport.close()
                    return None
                return b"again"

            def connection_closed(self, transport: Any, op: int) -> None:
                seen.append((op, transport.total_bytes_sent, transport.total_bytes_received))

        with serving(Upper) as running:
            client = parallel.client("127.0.0.1", running.server.port)
            assert (client.host, client.ip) == ("127.0.0.1", "127.0.0.1")
            assert client.port == running.server.port
            parallel.register(transport=client, protocol=Talks)
            until(lambda: len(seen) == 4)
        assert seen == [b"HELLO", b"AGAIN", b"AGAIN", (parallel.IoOp.CLOSE, 15, 15)]

    def test_run_waits_for_a_client(self) -> None:
        seen: list[bytes] = []
        listener = socket.create_server(("127.0.0.1", 0))

        class Reads:
            def data_received(self, transport: Any, data: bytes) -> None:
                seen.append(data)

        def serve() -> None:
            with listener, listener.accept()[0] as sock:
                sock.sendall(b"quote")

        thread = threading.Thread(target=serve)
        thread.start()
        client = parallel.client("127.0.0.1", listener.getsockname()[1])
        parallel.register(client, Reads)
        parallel.run()
        thread.join()
        assert seen == [b"quote"]

    def test_nobody_listens(self) -> None:
        seen: list[Any] = []
        # Nobody else gets the port, and it does not listen.
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.check_refusals(taken.getsockname()[1], seen)

    def check_refusals(self, port: int, seen: list[Any]) -> None:

        class Recording:
            def connection_error(self, transport: Any, *what: Any) -> None:
                seen.append(what)

        class RecordingErrno:
            def initial_connection_error(self, transport: Any, errcode: int) -> None:
                seen.append(errcode)

        class WithoutCallback:
            pass

        parallel.register(parallel.client("127.0.0.1", port), Recording)
        parallel.run()
        parallel.register(parallel.client("127.0.0.1", port), RecordingErrno)
        parallel.run()
        assert seen == [(parallel.IoOp.CONNECT, "connect", errno.ECONNREFUSED), errno.ECONNREFUSED]
        parallel.register(parallel.client("127.0.0.1", port), WithoutCallback)
        with pytest.raises(ConnectionRefusedError):
            parallel.run()
        parallel.run()
