"""Which connections may go without TLS: whoever reaches a port of Dask runs code there."""

from __future__ import annotations

import ipaddress

from distributed.comm.addressing import get_address_host, parse_address

TRUSTED = "trusted network"
"""What a caller writes as `security=` to connect without TLS."""

_ENCRYPTED = ("tls", "wss")


def check_address(address: str, trusted: bool, with_security: bool = False) -> None:
    """Raise `PermissionError` for a connection that others could read or use."""
    scheme, rest = parse_address(address)
    if trusted or with_security or scheme in (*_ENCRYPTED, "inproc") or _is_loopback(address):
        return
    raise PermissionError(
        f"the connection to {rest} would not be encrypted, and whoever reaches Dask's ports can "
        f"run code there: give security=distributed.Security(…) with TLS, or security={TRUSTED!r}"
    )


def _is_loopback(address: str) -> bool:
    host = get_address_host(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
