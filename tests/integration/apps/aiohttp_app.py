"""An aiohttp server as its users start it, on the loop under test."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket

from aiohttp import web


async def loop_class(_request: web.Request) -> web.Response:
    loop = type(asyncio.get_running_loop())
    return web.Response(text=f"{loop.__module__}.{loop.__qualname__}")


async def announce_cleanup(_app: web.Application) -> None:
    print("cleanup")


app = web.Application()
app.router.add_get("/loop", loop_class)
app.on_cleanup.append(announce_cleanup)


if __name__ == "__main__":
    event_loop = importlib.import_module(os.environ["HYBRIDLOOP_TEST_LOOP"]).new_event_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    print("port", listener.getsockname()[1])
    web.run_app(app, sock=listener, loop=event_loop)
    print("closed", event_loop.is_closed())
