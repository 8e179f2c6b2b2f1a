"""asyncpg with a PostgreSQL server: TCP, TLS, Unix sockets."""

from __future__ import annotations

import asyncio
import datetime
import io
import os
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ..integration.support.loops import run_on_loop, wait_until_async
from .servers import PostgreSQL

# PostgreSQL ignores what cancels a query that it has not begun: long enough to tell, and no longer.
SLEEP = "SELECT pg_sleep(3)"

Options = dict[str, Any]
Main = Callable[[asyncpg.Connection], Coroutine[Any, Any, None]]


@pytest.fixture(params=["tcp", "tls", "unix"])
def options(postgresql_server: PostgreSQL, request: pytest.FixtureRequest) -> Options:
    """How to connect to the server."""
    server = postgresql_server
    found: Options = {"user": "tester", "database": "postgres", "port": server.port}
    if request.param == "unix":
        return {**found, "host": str(server.directory)}
    if request.param == "tls":
        context = ssl.create_default_context(cafile=server.authority_file)
        return {**found, "host": "localhost", "ssl": context}
    return {**found, "host": "127.0.0.1", "ssl": False}


def on_connection(options: Options, main: Main) -> None:
    async def whole() -> None:
        connection = await asyncpg.connect(**options)
        try:
            await main(connection)
        finally:
            await connection.close()

    run_on_loop(whole())


def test_queries_and_types(options: Options) -> None:
    async def main(connection: asyncpg.Connection) -> None:
        values = [
            (42, "bigint"),
            ("grüße", "text"),
            (b"\x00\xff", "bytea"),
            (Decimal("1.50"), "numeric"),
            (datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC), "timestamptz"),
            ([1, None, 3], "int[]"),
        ]
        for value, kind in values:
            assert await connection.fetchval(f"SELECT $1::{kind}", value) == value
        rows = await connection.fetch("SELECT n, n * n AS square FROM generate_series(1, 1000) n")
        assert [row["square"] for row in rows] == [n * n for n in range(1, 1001)]
        statement = await connection.prepare("SELECT $1::int + 1")
        for number in range(500):
            assert await statement.fetchval(number) == number + 1
        encrypted = await connection.fetchval(
            "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        )
        assert encrypted is isinstance(options.get("ssl"), ssl.SSLContext)

    on_connection(options, main)


def test_transactions(options: Options) -> None:
    async def main(connection: asyncpg.Connection) -> None:
        await connection.execute("CREATE TEMP TABLE items (id int PRIMARY KEY, name text)")
        with pytest.raises(asyncpg.UniqueViolationError):
            async with connection.transaction():
                await connection.execute("INSERT INTO items VALUES (1, 'lost')")
                await connection.execute("INSERT INTO items VALUES (1, 'twice')")
        assert await connection.fetchval("SELECT count(*) FROM items") == 0
        async with connection.transaction():
            await connection.executemany(
                "INSERT INTO items VALUES ($1, $2)", [(n, f"item {n}") for n in range(1000)]
            )
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute("DELETE FROM items")
                    raise ZeroDivisionError
            seen = [row["id"] async for row in connection.cursor("SELECT id FROM items ORDER BY 1")]
        assert seen == list(range(1000))

    on_connection(options, main)


def test_copy(options: Options, tmp_path: Path) -> None:
    blob = os.urandom(3 << 20)

    async def rows() -> AsyncIterator[bytes]:
        for number in range(20_000):
            yield b"%d\trow %d\n" % (number, number)

    async def main(connection: asyncpg.Connection) -> None:
        await connection.execute("CREATE TEMP TABLE lines (id int, name text)")
        assert await connection.copy_to_table("lines", source=rows()) == "COPY 20000"
        records = [(number, "record") for number in range(20_000)]
        assert await connection.copy_records_to_table("lines", records=records) == "COPY 20000"
        out = io.BytesIO()
        await connection.copy_from_query("SELECT id FROM lines ORDER BY id", output=out)
        ids = out.getvalue().split()
        assert ids == [b"%d" % (number // 2) for number in range(40_000)]
        path = tmp_path / "lines.csv"
        await connection.copy_from_table("lines", output=path, format="csv")
        assert path.read_bytes().count(b"\n") == 40_000
        assert await connection.fetchval("SELECT $1::bytea", blob) == blob

    on_connection(options, main)


def test_listen_and_notify(options: Options) -> None:
    async def main(connection: asyncpg.Connection) -> None:
        heard: list[str] = []
        listener = await asyncpg.connect(**options)
        try:
            await listener.add_listener("news", lambda *message: heard.append(message[3]))
            for number in range(200):
                await connection.execute("SELECT pg_notify('news', $1)", str(number))
            await wait_until_async(lambda: len(heard) == 200)
            assert heard == [str(number) for number in range(200)]
        finally:
            await listener.close()

    on_connection(options, main)


def test_cancelled_query(options: Options) -> None:
    """The connection goes on, and the server stops a query that it has begun."""

    async def main(connection: asyncpg.Connection) -> None:
        for delay in (0.0, 0.001, 0.02):
            sleeping = asyncio.create_task(connection.execute(SLEEP))
            await asyncio.sleep(delay)
            sleeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sleeping
            assert await connection.fetchval("SELECT 1") == 1

        async def sleeps() -> bool:
            found = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'"
            return await observer.fetchval(found, connection.get_server_pid()) is not None

        observer = await asyncpg.connect(**options)
        try:
            sleeping = asyncio.create_task(connection.execute("SELECT pg_sleep(600)"))
            async with asyncio.timeout(60):
                while not await sleeps():
                    await asyncio.sleep(0.002)
            sleeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sleeping
            assert await connection.fetchval("SELECT 1") == 1
        finally:
            await observer.close()

    on_connection(options, main)


def test_timeouts(options: Options) -> None:
    async def main(connection: asyncpg.Connection) -> None:
        with pytest.raises(TimeoutError):
            await connection.execute(SLEEP, timeout=0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.execute(SLEEP)
        with pytest.raises(asyncpg.QueryCanceledError):
            # For this one only: a busy machine takes as long for any.
            async with connection.transaction():
                await connection.execute("SET LOCAL statement_timeout = 50")
                await connection.execute("SELECT pg_sleep(60)")
        assert await connection.fetchval("SELECT 1") == 1

    on_connection(options, main)


def test_pool(options: Options) -> None:
    async def main() -> None:
        async with asyncpg.create_pool(**options, min_size=2, max_size=8) as pool:
            await pool.execute("DROP TABLE IF EXISTS counter")
            await pool.execute("CREATE TABLE counter (value int)")
            await pool.execute("INSERT INTO counter VALUES (0)")

            async def add(number: int) -> None:
                async with pool.acquire() as connection, connection.transaction():
                    await connection.execute("UPDATE counter SET value = value + $1", number)

            async with asyncio.TaskGroup() as group:
                for number in range(200):
                    group.create_task(add(number))
            assert await pool.fetchval("SELECT value FROM counter") == sum(range(200))

            async with pool.acquire() as connection:
                victim = await connection.fetchval("SELECT pg_backend_pid()")
                sleeping = asyncio.create_task(connection.execute("SELECT pg_sleep(600)"))

                async def ended() -> bool:
                    found = await pool.fetchval(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE pid = $1 AND wait_event = 'PgSleep'",
                        victim,
                    )
                    return bool(found)

                async with asyncio.timeout(60):
                    while not await ended():
                        await asyncio.sleep(0.002)
                with pytest.raises(
                    (asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)
                ):
                    await sleeping
            assert await pool.fetchval("SELECT value FROM counter") == sum(range(200))

    run_on_loop(main())


def test_connection_errors(options: Options) -> None:
    async def main() -> None:
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await asyncpg.connect(**{**options, "database": "nowhere"})
        with pytest.raises(OSError):
            await asyncpg.connect(**{**options, "port": 1})
        if isinstance(options.get("ssl"), ssl.SSLContext):
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncpg.connect(**{**options, "ssl": ssl.create_default_context()})

    run_on_loop(main())
