"""An ASGI application with heavy routes that do not hold up the light ones.

    uvicorn examples.kernels.asgi_app:app --loop hybridloop:new_event_loop
    curl -d secret localhost:8000/hash
    curl --data-binary @README.md localhost:8000/compress | gunzip | head

`POST /hash` hashes the password in its body with Argon2id, `POST /verify?hash=…` checks one, and
`POST /compress` gives its body as gzip. Each of them takes a processor for milliseconds, on a
thread that does not need Python's lock: `GET /` is answered meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import hybridloop

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LIMIT = 16 << 20
TEXT = b"text/plain; charset=utf-8"


class BadRequest(Exception):
    """The message for the client, with status 400."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise NotImplementedError(f"this application only speaks HTTP, not {scope['type']}")
    try:
        await route(scope, receive, send)
    except BadRequest as error:
        await respond(send, f"{error}\n".encode(), status=400)


async def route(scope: Scope, receive: Receive, send: Send) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, hybridloop.Loop), "start uvicorn with --loop hybridloop:new_event_loop"
    query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode()).items()}
    match scope["method"], scope["path"]:
        case "GET", "/":
            await respond(send, b"Hello, world!")
        case "POST", "/hash":
            password = await read_body(receive)
            memory = number(query, "memory", 19_456, at_most=1 << 18)
            passes = number(query, "passes", 2, at_most=16)
            text = await loop.run_native("hl.argon2id.hash", password, memory, passes)
            await respond(send, text.encode())
        case "POST", "/verify":
            password = await read_body(receive)
            try:
                ok = await loop.run_native("hl.argon2id.verify", password, query.get("hash", ""))
            except ValueError as error:
                raise BadRequest(str(error)) from error
            await respond(send, b"right" if ok else b"wrong")
        case "POST", "/compress":
            body = await read_body(receive)
            level = number(query, "level", 6, at_most=9)
            compressed = await loop.run_native("hl.gzip.compress", body, level)
            # uvicorn takes bytes; this is the only copy of the result.
            await respond(send, bytes(compressed), b"application/gzip")
        case _:
            await respond(send, b"Not found", status=404)


def number(query: dict[str, str], name: str, default: int, at_most: int) -> int:
    text = query.get(name, str(default))
    if not text.isdecimal() or not 1 <= int(text) <= at_most:
        raise BadRequest(f"{name} is a number from 1 to {at_most}")
    return int(text)


async def read_body(receive: Receive) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("the client left before its request was complete")
        body += message.get("body", b"")
        if len(body) > LIMIT:
            raise BadRequest(f"more than {LIMIT} bytes")
        more = message.get("more_body", False)
    return bytes(body)


async def respond(send: Send, body: bytes, content_type: bytes = TEXT, status: int = 200) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
