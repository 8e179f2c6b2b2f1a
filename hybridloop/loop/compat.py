"""The private functions of asyncio that hybridloop overrides or calls, with their parameters.

An overriding method passes unknown arguments on to asyncio, so a difference breaks no program.
With `HYBRIDLOOP_STRICT_ASYNCIO=1` in the environment they are compared with the running asyncio at
import, and a difference is an `ImportError`; continuous integration sets it.
"""

from __future__ import annotations

from asyncio import base_events, format_helpers, selector_events, trsock, unix_events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

_TIMEOUTS = "ssl_handshake_timeout ssl_shutdown_timeout"

# The parameters that an overriding method handles. Older releases of asyncio may have fewer.
_OVERRIDDEN: list[tuple[Any, str, str]] = [
    (selector_events.BaseSelectorEventLoop, "_add_reader", "fd callback args context"),
    (selector_events.BaseSelectorEventLoop, "_add_writer", "fd callback args context"),
    (selector_events.BaseSelectorEventLoop, "_remove_reader", "fd"),
    (selector_events.BaseSelectorEventLoop, "_remove_writer", "fd"),
    (selector_events.BaseSelectorEventLoop, "_ensure_fd_no_transport", "fd"),
    (
        selector_events.BaseSelectorEventLoop,
        "_make_socket_transport",
        "sock protocol waiter extra server context",
    ),
    (
        selector_events.BaseSelectorEventLoop,
        "_make_ssl_transport",
        "rawsock protocol sslcontext waiter server_side server_hostname extra server context "
        + _TIMEOUTS,
    ),
    (
        selector_events.BaseSelectorEventLoop,
        "_make_datagram_transport",
        "sock protocol address waiter extra",
    ),
    (
        selector_events.BaseSelectorEventLoop,
        "_start_serving",
        "protocol_factory sock sslcontext server backlog context " + _TIMEOUTS,
    ),
    (selector_events.BaseSelectorEventLoop, "_sendfile_native", "transp file offset count"),
    (selector_events.BaseSelectorEventLoop, "_make_self_pipe", ""),
    (selector_events.BaseSelectorEventLoop, "_close_self_pipe", ""),
    (selector_events.BaseSelectorEventLoop, "_write_to_self", ""),
    (base_events.BaseEventLoop, "_run_once", ""),
    (base_events.BaseEventLoop, "_add_callback", "handle"),
    (base_events.BaseEventLoop, "_add_callback_signalsafe", "handle"),
    (
        unix_events._UnixSelectorEventLoop,
        "_make_subprocess_transport",
        "protocol args shell stdin stdout stderr bufsize extra kwargs",
    ),
    (
        unix_events._UnixSubprocessTransport,  # type: ignore[attr-defined]
        "_start",
        "args shell stdin stdout stderr bufsize kwargs",
    ),
]

# The parameters that are passed. asyncio must not require others.
_CALLED: list[tuple[Any, str, str]] = [
    (base_events, "_check_ssl_socket", "sock"),
    (base_events, "_format_handle", "handle"),
    (base_events.BaseEventLoop, "_check_closed", ""),
    (base_events.BaseEventLoop, "_check_running", ""),
    (base_events.BaseEventLoop, "_ensure_resolved", "address family type proto flags loop"),
    (base_events.Server, "_attach", "transport"),
    (base_events.Server, "_detach", "transport"),
    (base_events.Server, "_start_serving", ""),
    (format_helpers, "_format_callback_source", "func args debug"),
    (format_helpers, "extract_stack", "f limit"),
    (selector_events._SelectorSocketTransport, "write", "data"),  # type: ignore[attr-defined]
    (selector_events._SelectorDatagramTransport, "sendto", "data addr"),  # type: ignore[attr-defined]
    (trsock.TransportSocket, "__init__", "sock"),
]

_VARIABLE = 0x04 | 0x08  # CO_VARARGS | CO_VARKEYWORDS


def _parameters(code: CodeType) -> list[str]:
    count = code.co_argcount + code.co_kwonlyargcount
    count += bin(code.co_flags & _VARIABLE).count("1")
    return [name for name in code.co_varnames[:count] if name != "self"]


def _difference(owner: Any, name: str, known: str, overridden: bool) -> str | None:
    where = f"{owner.__name__}.{name}()"
    function = getattr(owner, name, None)
    code: CodeType | None = getattr(function, "__code__", None)
    if code is None:
        return f"asyncio has no {where}"
    parameters = _parameters(code)
    if not overridden:
        # Only parameters without a default are required.
        defaults = len(function.__defaults__ or ())  # type: ignore[union-attr]
        required = list(code.co_varnames[: code.co_argcount - defaults])
        keywords = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
        required += [key for key in keywords if key not in (function.__kwdefaults__ or ())]  # type: ignore[union-attr]
        parameters = [name for name in required if name != "self"]
    unknown = [name for name in parameters if name not in known.split()]
    return f"{where} has unknown parameters: {', '.join(unknown)}" if unknown else None


def differences() -> list[str]:
    """The differences between the running asyncio and the tables, one line for each function."""
    found = [_difference(*entry, overridden=True) for entry in _OVERRIDDEN]
    found += [_difference(*entry, overridden=False) for entry in _CALLED]
    return [line for line in found if line is not None]


def check() -> None:
    """Raise `ImportError` for differences."""
    if lines := differences():
        raise ImportError("unsupported version of asyncio: " + "; ".join(lines))
