"""`engine.serve()`: ASGI applications on the threads of an engine."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hybridloop import Engine
from tests.support.waiting import until

from .support import HOST, has_servers

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(gil_threads=3) as engine:
        yield engine


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["thread"] = threading.current_thread().name
        await send({"type": "lifespan.startup.complete"})
        await receive()
        ended.append(threading.current_thread().name)
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/slow":
        slow.set()
        await asyncio.sleep(0.3)
    if scope["path"] == "/forever":
        slow.set()
        await asyncio.sleep(600)
    answer = {
        "thread": threading.current_thread().name,
        "state": scope["state"]["thread"],
        "body": body.decode(),
        "loop": type(asyncio.get_running_loop()).__module__,
    }
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


ended: list[str] = []


slow = threading.Event()


@pytest.fixture(autouse=True)
def forget() -> None:
    ended.clear()
    slow.clear()


def request(address: tuple[str, int], path: str = "/", body: str = "") -> dict[str, Any]:
    connection = http.client.HTTPConnection(*address[:2], timeout=60)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        assert response.status == 200
        answer: dict[str, Any] = json.loads(response.read())
        return answer
    finally:
        connection.close()


def test_asgi_on_every_thread(engine: Engine) -> None:
    with engine.serve(app, HOST, 0) as server:
        seen: set[str] = set()
        deadline = time.monotonic() + 60
        while len(seen) < 3:
            assert time.monotonic() < deadline, f"only {seen} answer"
            answer = request(server.addresses[0], "/", "hello")
            assert answer["body"] == "hello"
            assert answer["loop"] == "hybridloop.loop"
            # Each thread has its own lifespan.
            assert answer["thread"] == answer["state"]
            seen.add(answer["thread"])
    assert sorted(ended) == [f"hybridloop-gil-{n}" for n in range(3)]


def test_asgi_by_name(engine: Engine) -> None:
    with engine.serve(f"{__name__}:app", HOST, 0, threads=[1]) as server:
        assert request(server.addresses[0])["thread"] == "hybridloop-gil-1"
    from uvicorn.importer import ImportFromStringError

    with pytest.raises(ImportFromStringError):
        engine.serve(f"{__name__}:nothing", HOST, 0)


def test_asgi_requests_that_run_are_answered_at_the_end() -> None:
    engine = Engine(gil_threads=2).start()
    server = engine.serve(app, HOST, 0)
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(request(server.addresses[0], "/slow")))
    asking.start()
    assert slow.wait(60)
    assert engine.close() == []
    asking.join(60)
    assert answers[0]["thread"].startswith("hybridloop-gil-")
    assert len(ended) == 2


@pytest.mark.parametrize("arguments", [{"timeout": 4}, {"cancel": True}])
def test_asgi_requests_that_do_not_end_are_cancelled(arguments: Any) -> None:
    engine = Engine(gil_threads=2).start()
    server = engine.serve(app, HOST, 0)
    with socket.create_connection(server.addresses[0], timeout=60) as sock:
        sock.sendall(b"GET /forever HTTP/1.1\r\nHost: x\r\n\r\n")
        assert slow.wait(60)
        begin = time.monotonic()
        assert engine.close(**arguments) == []
        assert time.monotonic() - begin < 30
        _read_to_the_end(sock)
    assert len(ended) == 2


def _read_to_the_end(sock: socket.socket) -> None:
    try:
        while sock.recv(1000):
            pass
    except ConnectionResetError:
        pass


def test_an_asgi_application_that_does_not_start(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match="did not start"):
        engine.serve(broken, HOST, 0, lifespan="on")
    assert "no database" in caplog.text
    assert "ignored SystemExit" not in caplog.text
    until(lambda: not has_servers(engine))
    assert engine.spawn(asyncio.sleep(0, 1)).result(60) == 1


def test_uvicorn_is_named_where_it_is_missing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r"pip install 'hybridloop\[asgi\]'"):
        engine.serve(app, HOST, 0)
    assert not has_servers(engine)
