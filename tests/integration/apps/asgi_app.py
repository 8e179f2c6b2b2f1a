"""The ASGI application that uvicorn, hypercorn and granian serve in the tests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import defaultdict
from contextvars import ContextVar
from typing import Any
from urllib.parse import parse_qs

EVENTS: dict[str, list[str]] = defaultdict(list)
TRACE: ContextVar[str | None] = ContextVar("trace", default=None)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        route, _, argument = scope["path"].lstrip("/").partition("/")
        await ROUTES[route](scope, receive, send, argument)


async def lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    if os.environ.get("FAIL_STARTUP"):
        await send({"type": "lifespan.startup.failed", "message": "asked to fail"})
        return
    if "state" in scope:
        scope["state"]["started"] = "yes"
    print("application: startup", flush=True)
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    print("application: shutdown", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def respond(send: Any, body: bytes, content_type: bytes = b"text/plain") -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Any, value: Any) -> None:
    await respond(send, json.dumps(value).encode(), b"application/json")


async def hello(scope: dict[str, Any], receive: Any, send: Any, argument: str) -> None:
    await respond(send, f"hello {argument}".encode())


async def describe(scope: dict[str, Any], receive: Any, send: Any, argument: str) -> None:
    loop = type(asyncio.get_running_loop())
    await respond_json(
        send,
        {
            "loop": f"{loop.__module__}.{loop.__qualname__}",
            "state": scope.get("state", {}).get("started"),
            "client_port": scope["client"][1],
            "scheme": scope["scheme"],
        },
    )


async def sha256(scope: dict[str, Any], receive: Any, send: Any, argument: str) -> None:
    digest, length, more = hashlib.sha256(), 0, True
    while more:
        message = await receive()
        digest.update(message.get("body", b""))
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    await respond_json(send, {"sha256": digest.hexdigest(), "length": length})


async def stream(scope: dict[str, Any], receive: Any, send: Any, argument: str) -> None:
    """`/stream/COUNT`: a chunked response, each chunk its number over and over, 4 KiB long."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(int(argument)):
        body = (b"%08d" % number) * 512
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


async def endless(scope: dict[str, Any], receive: Any, send: Any, argument: str) -> None:
    """`/endless/TOKEN`: send until the client is gone."""
    gone = asyncio.create_task(wait_for_disconnect(receive, argument))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
    except OSError:
        EVENTS[argument].append("send raised OSError")
    await gone


async def upload(scope: dict[str, Any], receive: Any, send: Any, argument: str) -> None:
    """`/upload/TOKEN`: read a body whose sender goes away before the end."""
    EVENTS[argument].append("started")
    await wait_for_disconnect(receive, argument)


async def wait_for_disconnect(receive: Any, token: str) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    EVENTS[token].append("http.disconnect")


async def events(scope: dict[str, Any], receive: Any, send: Any, argument: str) -> None:
    await respond_json(send, EVENTS[argument])


async def wait_file(scope: dict[str, Any], receive: Any, send: Any, argument: str) -> None:
    """`/wait_file?path=PATH`: send the head, and the body once the file is there."""
    path = parse_qs(scope["query_string"].decode())["path"][0]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"waiting ", "more_body": True})
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"done"})


async def context(scope: dict[str, Any], receive: Any, send: Any, argument: str) -> None:
    """Respond with the value in the context, then set another one."""
    seen = TRACE.get()
    TRACE.set(f"task {argument}")
    await asyncio.sleep(0)
    await respond_json(send, {"seen": seen, "client_port": scope["client"][1]})


ROUTES = {
    "": hello,
    "hello": hello,
    "describe": describe,
    "sha256": sha256,
    "stream": stream,
    "endless": endless,
    "upload": upload,
    "events": events,
    "wait_file": wait_file,
    "context": context,
}


async def websocket(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """`/echo` sends messages back; `/close/CODE` closes; `/record/TOKEN` keeps the close code."""
    assert (await receive())["type"] == "websocket.connect"
    route, _, argument = scope["path"].lstrip("/").partition("/")
    await send({"type": "websocket.accept"})
    if route == "close":
        await send({"type": "websocket.close", "code": int(argument), "reason": "as asked"})
        return
    while (message := await receive())["type"] == "websocket.receive":
        kind = "text" if message.get("text") is not None else "bytes"
        await send({"type": "websocket.send", kind: message[kind]})
    if route == "record":
        EVENTS[argument].append(f"closed {message['code']}")
