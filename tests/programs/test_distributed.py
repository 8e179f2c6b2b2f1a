"""dask.distributed: scheduler, workers and client on one loop, with their own TCP protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from distributed import Client, LocalCluster

from ..integration.support.loops import run_on_loop


def cluster(**options: Any) -> LocalCluster:
    return LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        asynchronous=True,
        dashboard_address=None,
        **options,
    )


@pytest.mark.parametrize("protocol", ["inproc", "tcp"])
def test_submit_and_map(protocol: str) -> None:
    async def main() -> None:
        where = {"protocol": "tcp", "host": "127.0.0.1"} if protocol == "tcp" else {}
        async with cluster(**where) as local, Client(local, asynchronous=True) as client:
            assert local.scheduler_address.startswith(f"{protocol}://")
            assert client.loop.asyncio_loop is asyncio.get_running_loop()
            assert await client.submit(sum, range(100)) == 4950
            squares = client.map(lambda number: number * number, range(200))
            assert await client.gather(squares) == [number * number for number in range(200)]
            data = await client.scatter(b"x" * (1 << 20))
            assert await client.submit(len, data) == 1 << 20
            with pytest.raises(ZeroDivisionError):
                await client.submit(lambda: 1 // 0)

    run_on_loop(main())
