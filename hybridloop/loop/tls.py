"""TLS on native streams: asyncio's own protocol, with native encryption and decryption."""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from typing import TYPE_CHECKING, Any

from .._core import TlsCore, _provide

if TYPE_CHECKING:
    from .transports import SocketTransport

# In the place of asyncio's buffers, for connections that do not use them.
_EMPTY_BIO = ssl.MemoryBIO()

# OpenSSL's libraries by their numbers, as `_ssl` names them in exceptions.
_LIBRARIES = {
    2: "SYS",
    3: "BN",
    4: "RSA",
    6: "EVP",
    9: "PEM",
    11: "X509",
    13: "ASN1",
    15: "CRYPTO",
    16: "EC",
    20: "SSL",
    32: "BIO",
    57: "PROV",
}


# A plain int, as in the exceptions of `_ssl`.
_SSL_FAILURE = int(ssl.SSL_ERROR_SSL)


def make_error(
    library: int, reason: int, text: str, verified: int, verified_text: str
) -> ssl.SSLError:
    """Make the exception that `_ssl` raises for an error of OpenSSL."""
    if not reason:
        return ssl.SSLError(_SSL_FAILURE, "A failure in the SSL library occurred")
    name = text.upper().replace(" ", "_").replace("-", "_")
    owner = _LIBRARIES.get(library)
    kind = ssl.SSLCertVerificationError if verified else ssl.SSLError
    if verified:
        text += f": {verified_text}"
    error = kind(_SSL_FAILURE, f"[{owner}: {name}] {text}" if owner else f"[{name}] {text}")
    error.library = owner  # type: ignore[assignment]
    error.reason = name
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_code = verified
        error.verify_message = verified_text
    return error


class CorkedSSLTransport(sslproto._SSLProtocolTransport):
    """asyncio's TLS transport, with the `cork_interval` of the stream transport below."""

    __slots__ = ()

    _ssl_protocol: Any

    @property
    def cork_interval(self) -> float:
        """Seconds for which writes of a running callback may be delayed; 0 sends each at once."""
        stream = getattr(self._ssl_protocol, "_transport", None)
        return 0.0 if stream is None else float(stream.cork_interval)

    @cork_interval.setter
    def cork_interval(self, seconds: float) -> None:
        stream = getattr(self._ssl_protocol, "_transport", None)
        if stream is not None:
            self._ssl_protocol._flush()
            stream.cork_interval = seconds


class SSLTransport(CorkedSSLTransport):
    """The transport of the application's protocol: asyncio's, with a native `write()`."""

    __slots__ = ("_ssl_protocol",)


TlsCore._install_transport(SSLTransport)


class _SSLProtocolBase(sslproto.SSLProtocol):
    """asyncio's TLS protocol, with another class for the application's transport."""

    _app_transport_class: type[sslproto._SSLProtocolTransport] = CorkedSSLTransport

    def _get_app_transport(self) -> sslproto._SSLProtocolTransport:
        if self._app_transport is None and not self._app_transport_created:
            self._app_transport = self._app_transport_class(self._loop, self)
            self._app_transport_created = True
        transport: sslproto._SSLProtocolTransport = super()._get_app_transport()  # type: ignore[misc]
        return transport


class TlsProtocol(TlsCore, _SSLProtocolBase):
    """asyncio's TLS protocol on a native stream.

    Handshake, shutdown, timeouts and flow control are inherited. After the handshake the core
    decrypts what the stream receives, and encrypts what the application writes.
    """

    # No receive buffer: the core takes data from the buffer that the stream reads into.
    max_size = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_native = self._attach(self._sslobj)  # type: ignore[attr-defined]
        self._incoming = self._outgoing = _EMPTY_BIO

    _app_transport_class = SSLTransport

    # As asyncio has done by then, send what the application has written.

    def _abort(self, *args: Any) -> None:
        if self._corked:
            self._flush()
        super()._abort(*args)

    def _fatal_error(self, exc: BaseException, *args: Any) -> None:
        if self._corked:
            self._flush()
        super()._fatal_error(exc, *args)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection of the stream is lost."""
        super().connection_lost(exc)
        self._clear_bio()


async def start_tls(
    loop: asyncio.BaseEventLoop,
    transport: SocketTransport,
    protocol: asyncio.BaseProtocol,
    sslcontext: ssl.SSLContext,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    **options: Any,
) -> asyncio.Transport | None:
    """`loop.start_tls()` on a native stream."""
    if not isinstance(sslcontext, ssl.SSLContext):
        # asyncio raises the right exception.
        return await asyncio.BaseEventLoop.start_tls(
            loop, transport, protocol, sslcontext, **options
        )
    waiter = loop.create_future()
    ssl_protocol = make_protocol(
        loop,
        protocol,
        sslcontext,
        waiter,
        server_side=server_side,
        server_hostname=server_hostname,
        call_connection_made=False,
        **options,
    )
    # Nothing may be read before the new protocol has its transport.
    transport.pause_reading()
    if server_side:
        _move_buffered_data(protocol, ssl_protocol)
    transport.set_protocol(ssl_protocol)
    steps = [
        loop.call_soon(ssl_protocol.connection_made, transport),
        loop.call_soon(transport.resume_reading),
    ]
    try:
        await waiter
    except BaseException:
        transport.close()
        for step in steps:
            step.cancel()
        # The exception refers to this frame; the waiter refers to the exception: avoid the cycle.
        del waiter
        raise
    return ssl_protocol._app_transport


def _move_buffered_data(
    protocol: asyncio.BaseProtocol, ssl_protocol: TlsProtocol | FallbackProtocol
) -> None:
    """Pass data in the reader's buffer to TLS: the peer has begun its handshake early.

    Newer versions of asyncio do this as well.
    """
    reader = getattr(protocol, "_stream_reader", None)
    if isinstance(protocol, asyncio.StreamReaderProtocol) and reader is not None:
        received = reader._buffer
        if received:
            ssl_protocol._store_incoming(received)
            received.clear()


class FallbackProtocol(_SSLProtocolBase):
    """asyncio's TLS protocol on a native stream; it flushes corked writes where asyncio sends."""

    def _abort(self, *args: Any) -> None:
        self._flush()
        super()._abort(*args)

    def _fatal_error(self, exc: BaseException, *args: Any) -> None:
        self._flush()
        super()._fatal_error(exc, *args)

    def _store_incoming(self, data: bytearray) -> None:
        self._incoming.write(data)  # type: ignore[attr-defined]

    def _flush(self) -> None:
        transport: Any = self._transport
        if transport is not None:
            transport._flush()


def make_protocol(
    loop: asyncio.AbstractEventLoop,
    app_protocol: asyncio.BaseProtocol,
    context: ssl.SSLContext | None,
    waiter: asyncio.Future[None] | None,
    **options: Any,
) -> TlsProtocol | FallbackProtocol:
    """Make a protocol for a native stream: native TLS, or asyncio's if it is not available."""
    args = (loop, app_protocol, context, waiter)
    if TlsProtocol._is_available():
        protocol = TlsProtocol(*args, **options)
        if protocol.is_native:
            return protocol
        # The context makes SSL objects of another class.
        protocol._app_transport._closed = True
    return FallbackProtocol(*args, **options)  # type: ignore[arg-type]


_provide(make_tls_error=make_error)
