"""uvicorn and aiohttp as servers on the running loop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import uvicorn
from aiohttp import web

from ..integration.conftest import Certificate
from ..integration.support.loops import Serve


def uvicorn_of(app: Any, certificate: Certificate | None, **options: Any) -> Serve[str]:
    """uvicorn with an ASGI application; gives its URL."""
    scheme = "https" if certificate else "http"
    if certificate:
        options |= {"ssl_keyfile": certificate.key_file, "ssl_certfile": certificate.cert_file}

    @asynccontextmanager
    async def serving() -> AsyncIterator[str]:
        config = uvicorn.Config(
            app, host="127.0.0.1", port=0, log_config=None, lifespan="off", **options
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        try:
            while not server.started:
                assert not task.done(), task
                await asyncio.sleep(0.005)
            port = server.servers[0].sockets[0].getsockname()[1]
            yield f"{scheme}://localhost:{port}"
            # uvicorn cannot shut down a WebSocket that is just closing.
            for _ in range(1000):
                if not server.server_state.connections:
                    break
                await asyncio.sleep(0.005)
        finally:
            server.should_exit = True
            await task

    def start() -> AbstractAsyncContextManager[str]:
        return serving()

    return start


def aiohttp_of(app: web.Application, tls: ssl.SSLContext | None) -> Serve[str]:
    """aiohttp's server with an application; gives its URL."""

    @asynccontextmanager
    async def serving() -> AsyncIterator[str]:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
            yield f"{'https' if tls else 'http'}://localhost:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    def start() -> AbstractAsyncContextManager[str]:
        return serving()

    return start
