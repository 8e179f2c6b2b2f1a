"""Serving an ASGI application on one thread, with uvicorn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .services import Service

if TYPE_CHECKING:
    import asyncio
    import socket

    import uvicorn


class AsgiService(Service):
    """A `uvicorn.Server`, which also runs the lifespan of the application."""

    def __init__(
        self,
        app: Any,
        sockets: Sequence[socket.socket],
        graceful_timeout: float | None,
        options: dict[str, Any],
    ) -> None:
        super().__init__(sockets, graceful_timeout)
        self.server = _make_server(self, app, options)

    async def run(self) -> None:
        server = self.server
        try:
            # uvicorn raises SystemExit if it cannot start. The loop must not see that.
            try:
                await server.serve(sockets=list(self.sockets))
            except SystemExit as error:
                raise RuntimeError(_NOT_STARTED) from error
            if not server.started:
                raise RuntimeError(_NOT_STARTED)
        except GeneratorExit:
            # The loop has failed: nothing can be awaited.
            raise
        except BaseException:
            self._abort()
            await self._abort_now()
            raise
        self._abort()

    def stop(self) -> None:
        self.server.should_exit = True

    def open_transports(self) -> list[asyncio.Transport]:
        found: list[Any] = list(self.server.server_state.connections)
        return [it.transport for it in found if it.transport is not None]

    def _abort(self) -> None:
        for transport in self.open_transports():
            transport.abort()

    async def _abort_now(self) -> None:
        server = self.server
        for listening in getattr(server, "servers", ()):
            listening.close()
        for task in list(server.server_state.tasks):
            task.cancel()
        if server.started:
            await server.lifespan.shutdown()


_NOT_STARTED = "the application did not start; see the log of the logger 'uvicorn.error'"


def _make_server(service: AsgiService, app: Any, options: dict[str, Any]) -> uvicorn.Server:
    try:
        import uvicorn
        from uvicorn.importer import import_from_string
    except ImportError as error:
        raise ImportError(
            "serving ASGI applications needs uvicorn: pip install 'hybridloop[asgi]'"
        ) from error

    settings: dict[str, Any] = {
        # The program configures logging; graceful_timeout limits the shutdown.
        "log_config": None,
        "timeout_graceful_shutdown": service.graceful_timeout,
        **options,
    }
    if isinstance(app, str):
        app = import_from_string(app)
    config = uvicorn.Config(app, **settings)
    try:
        config.load()
    except SystemExit as error:
        raise RuntimeError(_NOT_STARTED) from error
    server = uvicorn.Server(config)
    startup = server.startup

    async def startup_and_notify(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets=sockets)
        if server.started:
            service.set_started()

    server.startup = startup_and_notify  # type: ignore[method-assign]
    return server
