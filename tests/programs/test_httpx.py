"""httpx, and httpcore below it, with uvicorn: both, or either, on the loop under test."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from ..integration.conftest import Certificate
from ..integration.support.loops import ROLES, iterate_chunks, run_roles
from .web_servers import uvicorn_of

each_role = pytest.mark.parametrize("role", ROLES)
each_scheme = pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
BODY = os.urandom(3 << 20)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Returns the client's port and the digest of the body; the response of `/slow` never ends."""
    digest, more = hashlib.sha256(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        digest.update(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/slow":
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    if scope["path"] == "/stream":
        async for chunk in iterate_chunks(BODY, 50_000):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    answer = {"port": scope["client"][1], "digest": digest.hexdigest(), "scheme": scope["scheme"]}
    body = b"" if scope["path"] == "/stream" else json.dumps(answer).encode()
    await send({"type": "http.response.body", "body": body})


def run(role: str, tls: Certificate | None, client: Any, certificate: Certificate) -> None:
    async def main(url: str) -> None:
        async with httpx.AsyncClient(
            base_url=url, verify=certificate.client_context, timeout=20.0, trust_env=False
        ) as http:
            await client(http)

    run_roles(role, uvicorn_of(application, tls, timeout_graceful_shutdown=1), main)


@each_scheme
@each_role
def test_keep_alive(role: str, tls: bool, certificate: Certificate) -> None:
    async def client(http: httpx.AsyncClient) -> None:
        answers = [(await http.get("/")).json() for _ in range(100)]
        assert len({answer["port"] for answer in answers}) == 1
        assert answers[0]["scheme"] == ("https" if tls else "http")
        again = await http.get("/", headers={"Connection": "close"})
        assert again.json()["port"] == answers[0]["port"]
        assert (await http.get("/")).json()["port"] != answers[0]["port"]

    run(role, certificate if tls else None, client, certificate)


@each_scheme
@each_role
def test_streaming_both_ways(role: str, tls: bool, certificate: Certificate) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        async for chunk in iterate_chunks(BODY, 70_000):
            yield chunk

    async def client(http: httpx.AsyncClient) -> None:
        answer = await http.post("/", content=pieces())
        assert answer.json()["digest"] == hashlib.sha256(BODY).hexdigest()
        answer = await http.post("/", content=BODY)
        assert answer.json()["digest"] == hashlib.sha256(BODY).hexdigest()
        received = bytearray()
        async with http.stream("GET", "/stream") as response:
            async for chunk in response.aiter_bytes():
                received += chunk
        assert received == BODY

    run(role, certificate if tls else None, client, certificate)


@each_scheme
@each_role
def test_many_at_once_through_a_small_pool(role: str, tls: bool, certificate: Certificate) -> None:
    async def main(url: str) -> None:
        limits = httpx.Limits(max_connections=5)
        async with httpx.AsyncClient(
            base_url=url,
            verify=certificate.client_context,
            limits=limits,
            timeout=30.0,
            trust_env=False,
        ) as http:

            async def one(number: int) -> int:
                body = str(number).encode()
                answer = (await http.post("/", content=body)).json()
                assert answer["digest"] == hashlib.sha256(body).hexdigest()
                port: int = answer["port"]
                return port

            ports = await asyncio.gather(*(one(number) for number in range(100)))
            assert len(set(ports)) == 5

    run_roles(role, uvicorn_of(application, certificate if tls else None), main)


@each_scheme
@each_role
def test_giving_up(role: str, tls: bool, certificate: Certificate) -> None:
    """A timeout, a cancellation and a stream that is left: the client goes on each time."""

    async def client(http: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await http.get("/slow", timeout=httpx.Timeout(60, read=0.1))
        request = asyncio.create_task(http.get("/slow"))
        await asyncio.sleep(0.02)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        async with http.stream("GET", "/slow") as response:
            async for chunk in response.aiter_raw():
                assert chunk == b"begun"
                break
        async with http.stream("GET", "/stream") as response:
            assert response.status_code == 200
        assert (await http.get("/")).status_code == 200

    run(role, certificate if tls else None, client, certificate)


@each_role
def test_wrong_certificate(role: str, certificate: Certificate) -> None:
    async def main(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await http.get("/")

    run_roles(role, uvicorn_of(application, certificate), main)
