"""Deadlines, cancelling, progress: how a call on a worker ends, and what its client hears before.

The connections of the client are private attributes.
"""

import asyncio
import math

import pytest

from hybridloop.cluster import connect

from .support import client_of, connected, dask_client, engines, idle, until

LANES = pytest.mark.parametrize("options", [{}, {"retries": 0}], ids=["direct", "scheduled"])
FOREVER = 1e6


async def running(cluster):
    return sum(engine["running"] for engine in (await engines(cluster)).values())


async def count_of(cluster, what):
    return sum(engine[what] for engine in (await engines(cluster)).values())


@LANES
async def test_a_deadline_ends_a_running_kernel(loop, dask, options):
    async with connected(dask) as cluster:
        for timeout in (0.05, 0.0):
            with pytest.raises(TimeoutError, match=r"\Ahl.sleep: the timeout has passed\Z"):
                await cluster.run_native("hl.sleep", FOREVER, timeout=timeout, **options)
        await until(lambda: idle(cluster))
        assert (cluster.stats().failed, cluster.stats().cancelled) == (2, 0)


async def test_a_deadline_counts_while_the_call_waits_for_a_worker(loop, dask):
    async with connected(dask, per_worker=1) as cluster:
        busy = [cluster.run_native("hl.sleep", FOREVER) for _ in range(2)]
        await until(lambda: cluster.stats().running == 2)
        with pytest.raises(TimeoutError, match=r"\Ahl.noop: the timeout has passed\Z"):
            await cluster.run_native("hl.noop", timeout=0.05)
        assert (cluster.stats().waiting, cluster.stats().failed) == (0, 1)
        for job in busy:
            job.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        assert await cluster.run_native("hl.noop", timeout=math.inf) is None


@LANES
async def test_cancelling_ends_the_running_kernel(loop, dask, options):
    async with connected(dask) as cluster:
        before = await count_of(cluster, "cancelled")
        job = cluster.run_native("hl.sleep", FOREVER, **options)
        await until(lambda: running(cluster))
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        await until(lambda: idle(cluster))
        assert await count_of(cluster, "cancelled") == before + 1
        assert cluster.stats().running == 0
        assert cluster.stats().cancelled == 1


async def test_a_cancelled_call_ends_when_its_kernel_has_returned(loop, dask, libraries):
    async with connected(dask, libraries=libraries) as cluster:
        await close_gates(cluster)
        job = cluster.run_native("jobs.stubborn", b"x")
        await until(lambda: running(cluster))
        job.cancel()
        for link in cluster._backend._links.values():
            await heard(link)
        assert not job.done()
        # Cancelled for a second time, it does not wait, and the call still occupies its worker.
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert cluster.stats().running == 1
        await open_gates(cluster)
        await until(lambda: cluster.stats().running == 0)


async def heard(link):
    """Wait until the worker has handled what was sent before: it takes one after the other."""
    for _ in range(3):
        await asyncio.sleep(0)  # the tasks that send
    link._pong.clear()
    await link._comms[0].write({"op": "ping"})
    await link._pong.wait()


async def close_gates(cluster):
    await client_of(cluster).run(set_gate, 0)


async def open_gates(cluster):
    await client_of(cluster).run(set_gate, 1)


async def set_gate(value, dask_worker):
    # In an engine of its own, since that of the worker is occupied.
    import hybridloop

    engine = hybridloop.NativeEngine(native_threads=1)
    await engine.run_native("jobs.set_gate", value)
    engine.close()


async def test_a_call_that_waits_is_cancelled_without_a_worker(loop, dask):
    async with connected(dask, per_worker=1) as cluster:
        busy = [cluster.run_native("hl.sleep", FOREVER) for _ in range(2)]
        await until(lambda: cluster.stats().running == 2)
        waiting = [cluster.run_native("hl.noop") for _ in range(3)]
        await until(lambda: cluster.stats().waiting == 3)
        waiting[0].cancel()
        busy[0].cancel()
        assert await waiting[1] is await waiting[2] is None
        assert waiting[0].cancelled()
        busy[1].cancel()
        await asyncio.wait(busy)
        assert cluster.stats().waiting == cluster.stats().running == 0
        assert (cluster.stats().done, cluster.stats().cancelled) == (2, 3)


async def test_a_cancel_may_overtake_its_call(loop, dask):
    async with connected(dask) as cluster:
        (link, *_) = cluster._backend._links.values()
        arguments = {"timeout": None, "priority": 0, "batch": False, "progress": False, "refs": {}}
        message = {"kernel": "hl.sleep", "arguments": [FOREVER], **arguments}
        link.cancel(1_000_001)
        await heard(link)
        reply = await link.call({"id": 1_000_001, **message})
        assert (await reply).cancelled


@LANES
async def test_progress_is_the_latest_state(loop, dask, libraries, options):
    seen = []
    async with connected(dask, libraries=libraries) as cluster:
        count = 200_000
        await cluster.run_native(
            "jobs.emit", count, on_progress=lambda *state: seen.append(state), **options
        )
    assert seen[-1] == (count, count)
    assert seen == sorted(seen)
    # Not each single step.
    assert len(seen) < count / 10


@LANES
async def test_a_failing_on_progress_does_not_harm_the_call(
    loop, dask, libraries, unhandled, options
):
    def fail(done, total):
        raise ZeroDivisionError

    async with connected(dask, libraries=libraries) as cluster:
        assert await cluster.run_native("jobs.emit", 3, on_progress=fail, **options) is None
    assert {type(context["exception"]) for context in unhandled} == {ZeroDivisionError}


async def test_items_are_refused_with_the_reason(loop, dask, libraries):
    async with connected(dask, libraries=libraries) as cluster:
        job = cluster.run_native("jobs.emit", 3)
        with pytest.raises(TypeError, match="items that a kernel emits stay on the worker"):
            async for _ in job:
                pass
        assert await job is None


async def test_closing_cancels_what_is_under_way(loop, dask):
    async with dask_client(dask) as client:
        async with connect(client, ping=None) as cluster:
            jobs = [
                cluster.run_native("hl.sleep", FOREVER),
                cluster.run_native("hl.sleep", FOREVER, retries=1),
                cluster.run_native_many("hl.sleep", [(FOREVER,)] * 4),
            ]
            await until(lambda: running(cluster))
        assert all(job.cancelled() for job in jobs)
        with pytest.raises(RuntimeError, match="the connection to the cluster is closed"):
            cluster.run_native("hl.noop")
        await cluster.aclose()  # for a second time
        # The workers have ended the kernels; another connection sees that.
        async with connect(client, ping=None) as other:
            await until(lambda: idle(other))


async def test_a_client_that_is_gone_leaves_no_kernel_running(loop, dask):
    async with connected(dask) as cluster:
        jobs = [cluster.run_native("hl.sleep", FOREVER) for _ in range(4)]
        await until(lambda: running(cluster))
        for link in list(cluster._backend._links.values()):
            for comm in link._comms:
                comm.abort()
        ended = await asyncio.gather(*jobs, return_exceptions=True)
        assert {type(error).__name__ for error in ended} == {"KernelLostError"}
        await until(lambda: idle(cluster))
        # The workers are there, and are used again.
        assert await cluster.run_native("hl.noop") is None
