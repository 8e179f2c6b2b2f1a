"""Tornado's server, client and WebSockets, which watch their sockets by `add_reader()`."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from tornado import web, websocket
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets

from ..integration.conftest import Certificate
from ..integration.support.loops import (
    ROLES,
    Serve,
    new_event_loop,
    run_on_loop,
    run_roles,
    wait_until_async,
)

each_role = pytest.mark.parametrize("role", ROLES)
each_scheme = pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
MEBIBYTE = os.urandom(1 << 20)


class Hello(web.RequestHandler):
    def get(self, name: str) -> None:
        self.write(f"hello {name}")

    async def post(self, name: str) -> None:
        await asyncio.sleep(0)
        self.write(self.request.body)


class Stream(web.RequestHandler):
    async def get(self) -> None:
        for start in range(0, len(MEBIBYTE), 50_000):
            self.write(MEBIBYTE[start : start + 50_000])
            await self.flush()


class Endless(web.RequestHandler):
    ended = 0

    async def get(self) -> None:
        try:
            while True:
                self.write(b"x" * 65536)
                await self.flush()
                await asyncio.sleep(0.001)
        except StreamClosedError:
            Endless.ended += 1


class Echo(websocket.WebSocketHandler):
    def get_compression_options(self) -> dict[str, int]:
        return {}

    async def on_message(self, message: str | bytes) -> None:
        if message == "close":
            self.close(4321, "as asked")
        else:
            await self.write_message(message, binary=isinstance(message, bytes))


def server_of(tls: ssl.SSLContext | None) -> Serve[str]:
    @asynccontextmanager
    async def serving() -> AsyncIterator[str]:
        app = web.Application(
            [(r"/hello/(.*)", Hello), ("/stream", Stream), ("/endless", Endless), ("/echo", Echo)],
            websocket_max_message_size=1 << 24,
        )
        server = HTTPServer(app, ssl_options=tls)
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        try:
            yield f"{'https' if tls else 'http'}://localhost:{sockets[0].getsockname()[1]}"
        finally:
            server.stop()
            await server.close_all_connections()

    def start() -> AbstractAsyncContextManager[str]:
        return serving()

    return start


def request(url: str, certificate: Certificate, **options: object) -> HTTPRequest:
    return HTTPRequest(
        url,
        ssl_options=certificate.client_context,
        connect_timeout=60.0,
        request_timeout=60.0,
        **options,
    )


@each_scheme
@each_role
def test_http(role: str, tls: bool, certificate: Certificate) -> None:
    async def client(url: str) -> None:
        http = AsyncHTTPClient(force_instance=True, max_clients=20)
        try:
            for number in range(20):
                answer = await http.fetch(request(f"{url}/hello/{number}", certificate))
                assert answer.body == b"hello %d" % number
            binary = {"Content-Type": "application/octet-stream"}
            posted = request(
                f"{url}/hello/x", certificate, method="POST", body=MEBIBYTE, headers=binary
            )
            assert (await http.fetch(posted)).body == MEBIBYTE
            chunks: list[bytes] = []
            streamed = request(f"{url}/stream", certificate, streaming_callback=chunks.append)
            await http.fetch(streamed)
            assert b"".join(chunks) == MEBIBYTE
            with pytest.raises(HTTPClientError, match="404"):
                await http.fetch(request(f"{url}/none", certificate))
            answers = await asyncio.gather(
                *(http.fetch(request(f"{url}/hello/{n}", certificate)) for n in range(100))
            )
            assert [answer.body for answer in answers] == [b"hello %d" % n for n in range(100)]
        finally:
            http.close()

    run_roles(role, server_of(certificate.server_context if tls else None), client)


@each_scheme
@each_role
def test_client_leaves(role: str, tls: bool, certificate: Certificate) -> None:
    async def client(url: str) -> None:
        before = Endless.ended
        http = AsyncHTTPClient(force_instance=True)
        seen: list[int] = []
        try:
            # On a busy machine it may take longer until the answer begins.
            for seconds in (0.2, 2, 20):
                endless = HTTPRequest(
                    f"{url}/endless",
                    ssl_options=certificate.client_context,
                    request_timeout=seconds,
                    streaming_callback=lambda chunk: seen.append(len(chunk)),
                )
                with pytest.raises(HTTPClientError, match="Timeout") as caught:
                    await http.fetch(endless)
                if seen:
                    break
            assert "Timeout during request" in str(caught.value)
            await wait_until_async(lambda: Endless.ended > before)
            answer = await http.fetch(request(f"{url}/hello/again", certificate))
            assert answer.body == b"hello again"
        finally:
            http.close()

    run_roles(role, server_of(certificate.server_context if tls else None), client)


@each_scheme
@each_role
def test_websocket(role: str, tls: bool, certificate: Certificate) -> None:
    async def one(url: str, number: int) -> None:
        uri = url.replace("http", "ws", 1) + "/echo"
        connection = await websocket.websocket_connect(
            request(uri, certificate), max_message_size=1 << 24, compression_options={}
        )
        for text in (f"grüße {number}", "", "x" * 70_000):
            await connection.write_message(text)
            assert await connection.read_message() == text
        if number == 0:
            await connection.write_message(MEBIBYTE, binary=True)
            assert await connection.read_message() == MEBIBYTE
        await connection.write_message("close")
        assert await connection.read_message() is None
        assert (connection.close_code, connection.close_reason) == (4321, "as asked")
        # Without it the collector warns of an unclosed connection, in some later test.
        connection.close()

    async def client(url: str) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(one(url, number))

    run_roles(role, server_of(certificate.server_context if tls else None), client)


def test_ioloop() -> None:
    """Tornado's own interface runs on the loop under test."""

    async def main() -> None:
        ioloop = IOLoop.current()
        assert ioloop.asyncio_loop is asyncio.get_running_loop()
        assert type(ioloop.asyncio_loop) is type_of_loop
        ticks: list[int] = []
        periodic = PeriodicCallback(lambda: ticks.append(1), 2)
        periodic.start()
        called = asyncio.Event()
        ioloop.add_callback(called.set)
        ioloop.call_later(0.001, ticks.append, 1)
        await called.wait()
        assert await ioloop.run_in_executor(None, sum, [1, 2]) == 3
        await wait_until_async(lambda: len(ticks) > 10)
        periodic.stop()

        reading, writing = os.pipe()
        try:
            ready = asyncio.Event()
            ioloop.add_handler(reading, lambda _fd, _events: ready.set(), IOLoop.READ)
            os.write(writing, b"x")
            await ready.wait()
            ioloop.remove_handler(reading)
        finally:
            os.close(reading)
            os.close(writing)

    loop = new_event_loop()
    type_of_loop = type(loop)
    loop.close()
    run_on_loop(main())
