"""Run an aiohttp application on hybridloop, with an echoing WebSocket beside a plain route.

pip install aiohttp && python examples/aiohttp_server.py [PORT]
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import WSMsgType, web

import hybridloop


async def index(request: web.Request) -> web.Response:
    loop = type(asyncio.get_running_loop())
    return web.Response(text=f"Served by {loop.__module__}.{loop.__qualname__}\n")


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket


def application() -> web.Application:
    app = web.Application()
    app.add_routes([web.get("/", index), web.get("/echo", echo)])
    return app


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    web.run_app(application(), host="127.0.0.1", port=port, loop=hybridloop.new_event_loop())
