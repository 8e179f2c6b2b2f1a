"""The ASGI application that the demo serves: a few routes, no framework."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import platform
import random
from array import array
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

TEXT = b"Hello, world!"
DOCUMENT = json.dumps({"greeting": "Hello, world!", "squares": [n * n for n in range(10)]}).encode()

STREAM_LINES = 20
STREAM_INTERVAL = 0.02

NUMBERS = 100_000


def stream_line(number: int) -> bytes:
    return f"line {number} of {STREAM_LINES}\n".encode()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise NotImplementedError(f"this application only speaks HTTP, not {scope['type']}")
    match scope["method"], scope["path"]:
        case "GET", "/":
            await respond(send, TEXT, b"text/plain; charset=utf-8")
        case "GET", "/json":
            await respond(send, DOCUMENT, b"application/json")
        case "GET", "/about":
            await respond(send, about(), b"application/json")
        case "POST", "/echo":
            body = await read_body(receive)
            digest = hashlib.sha256(body).hexdigest().encode()
            await respond(send, body, b"application/octet-stream", [(b"x-sha256", digest)])
        case "GET", "/stream":
            await stream(send)
        case "GET", "/median/native":
            await respond(send, await median_native(), b"text/plain; charset=utf-8")
        case "GET", "/median/executor":
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(None, median)
            await respond(send, body, b"text/plain; charset=utf-8")
        case "GET", "/median/blocking":
            await respond(send, median(), b"text/plain; charset=utf-8")
        case _:
            await respond(send, b"Not found", b"text/plain; charset=utf-8", status=404)


@functools.cache
def numbers() -> array[float]:
    generator = random.Random(0)
    return array("d", (generator.gauss() for _ in range(NUMBERS)))


def median() -> bytes:
    return repr(sorted(numbers())[NUMBERS // 2]).encode()


async def median_native() -> bytes:
    loop: Any = asyncio.get_running_loop()
    in_order = await loop.run_native("hl.sort", numbers())
    return repr(memoryview(in_order)[NUMBERS // 2]).encode()


def about() -> bytes:
    """Which loop runs this very request, so that a client need not take it on trust."""
    loop = type(asyncio.get_running_loop())
    facts = {
        "loop": f"{loop.__module__}.{loop.__qualname__}",
        "package": loop.__module__.partition(".")[0],
        "python": platform.python_version(),
        "pid": os.getpid(),
    }
    return json.dumps(facts).encode()


async def read_body(receive: Receive) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the client left before its request was complete")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


async def respond(
    send: Send, body: bytes, content_type: bytes, extra: Headers = (), status: int = 200
) -> None:
    headers = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stream(send: Send) -> None:
    """Send lines with a pause before each; without a content-length the server sends chunks."""
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(1, STREAM_LINES + 1):
        await asyncio.sleep(STREAM_INTERVAL)
        await send(
            {"type": "http.response.body", "body": stream_line(number), "more_body": True},
        )
    await send({"type": "http.response.body", "body": b""})
