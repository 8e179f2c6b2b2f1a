"""uvicorn's HTTP protocols with what tracing instrumentation adds to them."""

from __future__ import annotations

import asyncio

from asgi_app import TRACE
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class TracingMixin:
    """Sets a context variable on a connection's first data."""

    transport: asyncio.Transport

    def data_received(self, data: bytes) -> None:
        if TRACE.get() is None:
            TRACE.set(f"port {self.transport.get_extra_info('peername')[1]}")
        super().data_received(data)  # type: ignore[misc]


class TracingHttpTools(TracingMixin, HttpToolsProtocol):
    pass


class TracingH11(TracingMixin, H11Protocol):
    pass
