"""anyio, and httpx on it, with the loop under test as `loop_factory`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.abc
import httpx
import pytest
from anyio.streams.tls import TLSListener, TLSStream

from .conftest import Certificate
from .support.loops import fds_return_to_start, loop_class_path, new_event_loop
from .support.uvicorn import UvicornProcess

PAYLOAD = os.urandom(1 << 20)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        loop = type(asyncio.get_running_loop())
        assert f"{loop.__module__}.{loop.__qualname__}" == loop_class_path()
        with anyio.fail_after(120):
            await main()

    with fds_return_to_start():
        anyio.run(bounded, backend_options={"loop_factory": new_event_loop})


async def echo(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        async for chunk in stream:
            await stream.send(chunk)


async def exchange(stream: anyio.abc.ByteStream) -> None:
    async def send() -> None:
        await stream.send(PAYLOAD)

    received = bytearray()
    async with anyio.create_task_group() as group:
        group.start_soon(send)
        while len(received) < len(PAYLOAD):
            received += await stream.receive()
    assert received == PAYLOAD


def test_tcp_echo_in_task_group() -> None:
    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)

            async def client() -> None:
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    await exchange(stream)

            async with anyio.create_task_group() as clients:
                for _ in range(10):
                    clients.start_soon(client)
            group.cancel_scope.cancel()
        await listener.aclose()

    run(main)


def test_half_close() -> None:
    async def main() -> None:
        async def reply_at_end(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                data = b"".join([chunk async for chunk in stream])
                await stream.send(data[::-1])

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, reply_at_end)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(PAYLOAD[:100_000])
                await stream.send_eof()
                answer = b"".join([chunk async for chunk in stream])
            assert answer == PAYLOAD[:100_000][::-1]
            group.cancel_scope.cancel()

    run(main)


def test_tls_echo(certificate: Certificate) -> None:
    async def main() -> None:
        plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = plain.extra(anyio.abc.SocketAttribute.local_port)
        listener = TLSListener(plain, certificate.server_context)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            stream: TLSStream = await anyio.connect_tcp(
                "127.0.0.1",
                port,
                tls=True,
                tls_hostname="localhost",
                ssl_context=certificate.client_context,
            )
            async with stream:
                await exchange(stream)
            group.cancel_scope.cancel()

    run(main)


def test_unix_echo(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "anyio.sock"
        listener = await anyio.create_unix_listener(path)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            async with await anyio.connect_unix(path) as stream:
                await exchange(stream)
            group.cancel_scope.cancel()

    run(main)


def test_udp() -> None:
    async def main() -> None:
        async with await anyio.create_udp_socket(local_host="127.0.0.1") as server:
            host, port = server.extra(anyio.abc.SocketAttribute.local_address)
            async with await anyio.create_connected_udp_socket(host, port) as client:
                for number in range(20):
                    await client.send(b"%d" % number)
                    data, address = await server.receive()
                    await server.sendto(data * 2, *address)
                    assert await client.receive() == b"%d" % number * 2

    run(main)


def test_worker_threads_call_back_into_the_loop() -> None:
    async def main() -> None:
        seen: list[int] = []

        async def record(number: int) -> int:
            await anyio.sleep(0)
            seen.append(number)
            return number * 2

        def work(number: int) -> int:
            return anyio.from_thread.run(record, number)

        results: list[int] = []

        async def one(number: int) -> None:
            results.append(await anyio.to_thread.run_sync(work, number))

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(one, number)
        assert sorted(seen) == list(range(100))
        assert sorted(results) == list(range(0, 200, 2))

    run(main)


def test_cancel_scopes_and_errors_in_task_groups() -> None:
    async def main() -> None:
        cleaned: list[int] = []

        async def wait(number: int) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                cleaned.append(number)

        async def fail() -> None:
            await anyio.sleep(0.01)
            raise LookupError("expected")

        with pytest.raises(ExceptionGroup) as caught:
            async with anyio.create_task_group() as group:
                for number in range(10):
                    group.start_soon(wait, number)
                group.start_soon(fail)
        assert caught.group_contains(LookupError, match="expected")
        assert sorted(cleaned) == list(range(10))
        with anyio.move_on_after(0.02) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught

    run(main)


def test_process_and_signal() -> None:
    async def main() -> None:
        result = await anyio.run_process(["cat"], input=PAYLOAD[:200_000])
        assert result.stdout == PAYLOAD[:200_000]
        with anyio.open_signal_receiver(signal.SIGUSR1) as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            async for number in signals:
                assert number == signal.SIGUSR1
                break

    run(main)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_httpx(tls: bool, certificate: Certificate) -> None:
    context = certificate.client_context if tls else None
    files = ["--ssl-keyfile", certificate.key_file, "--ssl-certfile", certificate.cert_file]
    with UvicornProcess(options=files if tls else [], tls=context) as server:
        base_url = f"{'https' if tls else 'http'}://localhost:{server.port}"

        async def main() -> None:
            async with httpx.AsyncClient(
                base_url=base_url, verify=certificate.client_context, timeout=60.0
            ) as client:
                for number in range(20):
                    assert (await client.get(f"/hello/{number}")).text == f"hello {number}"
                answer = (await client.post("/sha256", content=PAYLOAD)).json()
                assert answer["length"] == len(PAYLOAD)
                async with client.stream("GET", "/stream/100") as response:
                    length = 0
                    async for chunk in response.aiter_raw():
                        length += len(chunk)
                    assert length == 100 * 4096
                async with anyio.create_task_group() as group:
                    for number in range(50):
                        group.start_soon(check_hello, client, number)

        async def check_hello(client: httpx.AsyncClient, number: int) -> None:
            response = await client.get(f"/hello/task-{number}")
            assert response.text == f"hello task-{number}"

        run(main)
        server.stop()
        server.assert_clean_log()
