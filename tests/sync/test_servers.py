"""Servers whose handlers are ordinary functions that wait. (T3.32)

A private method of uvicorn serves without signal handlers.
"""

import asyncio
import contextlib
import resource
import socket
import sys

import pytest

from hybridloop import await_, sync

pytestmark = pytest.mark.only("hybridloop", "debug")

CONNECTIONS = 300


def request(number):
    body = b"request %d" % number
    head = f"POST /{number} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n", body


async def visit(address, number):
    """One request; every tenth visitor leaves before the answer."""
    reader, writer = await asyncio.open_connection(*address)
    head, body = request(number)
    writer.write(head)
    await asyncio.sleep(0.001 * (number % 5))
    writer.write(body)
    if number % 10 == 0:
        await asyncio.sleep(0)
        writer.transport.abort()
        return True
    answer = await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"got " + body)


async def visit_all(address):
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(CONNECTIONS, (soft - 100) // 2)
    assert all(await asyncio.gather(*(visit(address, number) for number in range(count))))


@pytest.mark.skipif(
    hasattr(sys, "gettotalrefcount"),
    reason="multidict crashes on debug builds by itself: its new objects are tracked too early",
)
async def test_aiohttp(loop, eventually):
    web = pytest.importorskip("aiohttp.web")

    def ordinary(request):
        await_(asyncio.sleep(0.005))
        return "got " + await_(request.text())

    async def handle(request):
        return web.Response(text=ordinary(request))

    app = web.Application()
    app.router.add_post("/{number}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        await visit_all(runner.addresses[0])
    finally:
        await runner.cleanup()
    await eventually(lambda: sync.waiting(loop) == [])


async def test_uvicorn(loop, eventually):
    uvicorn = pytest.importorskip("uvicorn")

    def ordinary(receive):
        await_(asyncio.sleep(0.005))
        message = {"more_body": True}
        body = b""
        while message.get("more_body"):
            message = await_(receive())
            if message["type"] == "http.disconnect":
                return None
            body += message["body"]
        return b"got " + body

    async def app(scope, receive, send):
        if scope["type"] == "http" and (body := ordinary(receive)) is not None:
            headers = [(b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    with socket.create_server(("127.0.0.1", 0), backlog=500) as listener:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error"))
        serving = loop.create_task(server._serve([listener]))
        await eventually(lambda: server.started)
        try:
            await visit_all(listener.getsockname())
        finally:
            server.should_exit = True
            await serving
    await eventually(lambda: sync.waiting(loop) == [])
