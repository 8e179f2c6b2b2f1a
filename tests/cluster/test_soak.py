"""Many calls that end in every way, and what is left of them. Private attributes show that."""

import asyncio
import gc
import itertools

from hybridloop.cluster import KernelLostError, connect

from .support import dask_client, engine_of, extra_worker, until

CALLS = 10_000
# How the coroutines of the package are called.
OWN = ("Cluster.", "Link.", "DaskBackend.", "Placement.")


async def left_on_worker(dask_worker):
    """What a worker keeps of calls."""
    server = dask_worker.plugins["hybridloop"].server
    stats = engine_of(dask_worker)
    return {
        "jobs": len(server._jobs),
        "tasks": len(server._tasks),
        "connections": len(server._comms),
        "sessions": len(server._sessions),
        "memory": stats["memory"],
        "queued": stats["queued"] + stats["running"],
        "data": len(dask_worker.data),
    }


async def test_nothing_is_left_of_ten_thousand_calls(loop, dask):
    async with dask_client(dask) as client, connect(client, ping=None) as cluster:
        # Now there is what Dask makes on first use.
        await cluster.run_native("hl.noop", retries=0)
    with extra_worker(dask, "killed in between") as victim:
        async with dask_client(dask, workers=3) as client:
            handlers = set(client._event_handlers)
            await make_calls_and_close(client, victim)

            left = {}

            async def nothing_on_workers():
                gc.collect()
                left.update(await client.run(left_on_worker))
                return {number for it in left.values() for number in it.values()} == {0}

            await until(nothing_on_workers, left)
            await until(lambda: not tasks_of_clusters())
            assert set(client._event_handlers) == handlers
            assert not [key for key in client.futures if "hybridloop" in str(key)]


def tasks_of_clusters():
    coroutines = [str(task.get_coro()) for task in asyncio.all_tasks()]
    return [it for it in coroutines if any(name in it for name in OWN)]


async def make_calls_and_close(client, victim):
    async with connect(client, ping=60) as cluster:
        await until(lambda: len(cluster.workers()) == 3)
        ended = await make_calls(cluster, victim)
        backend = cluster._backend
        await until(lambda: cluster.stats().running == 0)
        assert not cluster._jobs and not backend._on_progress and not backend._scheduled
        assert not any(link._replies for link in backend._links.values())
        stats = cluster.stats()
        assert (stats.waiting, stats.done, stats.lost) == (0, ended["done"], ended["lost"])
        # At least those that were cancelled at once; others had perhaps ended before.
        assert ended["cancelled"] >= CALLS // 21


async def make_calls(cluster, victim):
    """Make calls in all ways, cancel each third, kill a worker; count how they have ended."""
    ended = {"done": 0, "cancelled": 0, "lost": 0}
    data = bytes(range(256)) * 40
    kinds = itertools.cycle(
        [
            lambda: cluster.run_native("hl.noop"),
            lambda: cluster.run_native("hl.sha256", data),
            lambda: cluster.run_native("hl.sleep", 0.001),
            lambda: cluster.run_native("hl.zstd.compress", data, on_progress=lambda *_: None),
        ]
    )

    async def make(number):
        job = next(kinds)()
        if number % 3 == 0:
            # Before it is sent, while it runs, or about when it ends.
            for _ in range(number % 7):
                await asyncio.sleep(0)
            job.cancel()
        await asyncio.wait([job])
        if job.cancelled():
            ended["cancelled"] += 1
        elif job.exception() is None:
            ended["done"] += 1
        else:
            assert isinstance(job.exception(), KernelLostError), job.exception()
            ended["lost"] += 1

    numbers = iter(range(CALLS))

    async def make_some():
        for number in numbers:
            if number == CALLS // 2:
                victim.kill()
            await make(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(make_some())
    scheduled = [cluster.run_native("hl.crc32", data, retries=1) for _ in range(30)]
    for job in scheduled[::3]:
        job.cancel()
    for job in scheduled:
        await asyncio.wait([job])
        ended["cancelled" if job.cancelled() else "done"] += 1
    assert sum(ended.values()) == CALLS + len(scheduled)
    return ended
