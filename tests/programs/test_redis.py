"""redis-py's asyncio client with a Redis server: TCP, TLS, Unix sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from ..integration.support.loops import run_on_loop, wait_until_async
from .servers import Redis

OPERATIONS = 10_000
Connect = Callable[..., redis.Redis]


@pytest.fixture(params=["tcp", "tls", "unix"])
def connect(redis_server: Redis, request: pytest.FixtureRequest) -> Connect:
    """Makes clients of the server; each needs `aclose()`."""

    def connect(**options: Any) -> redis.Redis:
        if request.param == "unix":
            options["unix_socket_path"] = redis_server.socket_path
        elif request.param == "tls":
            options |= {"host": "localhost", "port": redis_server.tls_port, "ssl": True}
            options["ssl_ca_certs"] = redis_server.authority_file
        else:
            options |= {"host": "127.0.0.1", "port": redis_server.port}
        return redis.Redis(**options)

    return connect


def on_loop(connect: Connect, main: Callable[[redis.Redis], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with connect() as client:
            await client.flushall()
            await main(client)

    run_on_loop(whole())


async def until_blocked(client: redis.Redis) -> None:
    """Wait until the server has another client wait for a list."""
    async with asyncio.timeout(60):
        while (await client.info("clients"))["blocked_clients"] == 0:
            await asyncio.sleep(0.001)


def test_ten_thousand_operations(connect: Connect) -> None:
    """One after another, by fifty tasks at once, and in pipelines."""

    async def main(client: redis.Redis) -> None:
        for number in range(OPERATIONS // 10):
            assert await client.incr("counter") == number + 1

        async def task(name: int) -> None:
            for number in range(40):
                await client.set(f"{name}:{number}", number)
                assert await client.get(f"{name}:{number}") == b"%d" % number

        async with asyncio.TaskGroup() as group:
            for name in range(50):
                group.create_task(task(name))

        for start in range(0, 5000, 500):
            async with client.pipeline(transaction=start % 1000 == 0) as pipeline:
                for number in range(start, start + 500):
                    pipeline.rpush("list", number)
                assert await pipeline.execute() == list(range(start + 1, start + 501))
        stored = await client.lrange("list", 0, -1)
        assert stored == [b"%d" % number for number in range(5000)]

    on_loop(connect, main)


def test_large_values(connect: Connect) -> None:
    async def main(client: redis.Redis) -> None:
        for size in (0, 1, 16 * 1024 + 1, 1 << 20, 8 << 20):
            value = os.urandom(size)
            await client.set("value", value)
            assert await client.get("value") == value

    on_loop(connect, main)


def test_publish_and_subscribe(connect: Connect) -> None:
    async def main(client: redis.Redis) -> None:
        received: list[bytes] = []

        async def subscriber(ready: asyncio.Event) -> None:
            async with client.pubsub() as channel:
                await channel.subscribe("news")
                async for message in channel.listen():
                    if message["type"] == "subscribe":
                        ready.set()
                    elif message["data"] == b"end":
                        return
                    else:
                        received.append(message["data"])

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                ready = asyncio.Event()
                group.create_task(subscriber(ready))
                await ready.wait()
            for number in range(200):
                assert await client.publish("news", number) == 5
            await client.publish("news", "end")
        assert sorted(received) == sorted([b"%d" % number for number in range(200)] * 5)

    on_loop(connect, main)


def test_a_cancelled_command_leaves_the_client_usable(connect: Connect) -> None:
    """What comes afterwards gets its own answer, not that of the command given up."""

    async def main(first: redis.Redis) -> None:
        async with connect(max_connections=1) as client:
            for number in range(20):
                waiting = asyncio.create_task(client.blpop(["empty"], timeout=0))
                await until_blocked(first)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert await client.echo(f"{number}") == b"%d" % number
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.blpop(["empty"], timeout=0)
            assert await client.ping() is True

    on_loop(connect, main)


def test_transactions_and_scripts(connect: Connect) -> None:
    async def main(client: redis.Redis) -> None:
        async def transfer() -> None:
            async with client.pipeline() as pipeline:
                while True:
                    try:
                        await pipeline.watch("balance")
                        balance = int(await pipeline.get("balance") or 0)
                        pipeline.multi()
                        pipeline.set("balance", balance + 1)
                        await pipeline.execute()
                        return
                    except redis.WatchError:
                        continue

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(transfer())
        assert await client.get("balance") == b"20"
        double = client.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
        assert await double(keys=["balance"], args=[22]) == 42
        with pytest.raises(ResponseError):
            await client.lpush("balance", "not a list")

    on_loop(connect, main)


def test_killed_connection_is_replaced(connect: Connect) -> None:
    async def main(client: redis.Redis) -> None:
        async with connect(max_connections=1, retry=None) as other:
            number = await other.client_id()
            waiting = asyncio.create_task(other.blpop(["empty"], timeout=0))
            await until_blocked(client)
            assert await client.client_kill_filter(_id=str(number)) == 1
            with pytest.raises(RedisConnectionError):
                await waiting
            assert await other.ping() is True
            assert await other.client_id() != number

    on_loop(connect, main)


def test_refused_connection(redis_server: Redis) -> None:
    async def main() -> None:
        client = redis.Redis(unix_socket_path=redis_server.socket_path + ".none", retry=None)
        async with client:
            with pytest.raises(RedisConnectionError):
                await client.ping()
        await wait_until_async(lambda: len(asyncio.all_tasks()) == 1)

    run_on_loop(main())
