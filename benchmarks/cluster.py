"""Kernels on the workers of a Dask cluster, beside Dask's calls: ``python -m benchmarks.cluster``.

A scheduler and two workers with one thread each, on loopback. One run measures everything, so that
what is compared had the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
import zlib
from collections.abc import Awaitable, Callable

from distributed import Client

import hybridloop
from examples.cluster.processes import DaskProcesses, local_cluster
from hybridloop.cluster import Cluster, KernelLostError, connect

MIB = 1 << 20


async def latency(call: Callable[[], Awaitable[object]], rounds: int) -> str:
    """Median and 99th percentile of a call, in microseconds."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        await call()
        times.append((time.perf_counter() - begin) * 1e6)
    slow = sorted(times)[rounds * 99 // 100]
    return f"p50 {statistics.median(times):8,.0f} µs   p99 {slow:8,.0f} µs"


async def measure_calls(cluster: Cluster, client: Client, rounds: int) -> None:
    """One call at a time."""
    await latency(lambda: cluster.run_native("hl.noop"), rounds // 10)
    here = asyncio.get_running_loop()
    assert isinstance(here, hybridloop.Loop)
    print("no-op, this process  ", await latency(lambda: here.run_native("hl.noop"), rounds))
    print("no-op, direct        ", await latency(lambda: cluster.run_native("hl.noop"), rounds))
    scheduled = await latency(lambda: cluster.run_native("hl.noop", retries=0), rounds // 20)
    print("no-op, scheduled     ", scheduled)
    submitted = await latency(
        lambda: client.submit(pow, 2, 3, pure=False),
        rounds // 20,
    )
    print("Dask's client.submit ", submitted)


async def measure_batches(cluster: Cluster, client: Client, rounds: int) -> None:
    """Calls by the thousand."""
    calls = [(b"x" * 100,)] * 1000
    await cluster.run_native_many("hl.crc32", calls)
    begin = time.perf_counter()
    for _ in range(rounds // 50):
        await cluster.run_native_many("hl.crc32", calls)
    rate = rounds // 50 * len(calls) / (time.perf_counter() - begin)
    print(f"batches of 1,000      {rate:12,.0f} kernel calls a second")
    begin = time.perf_counter()
    futures = client.map(zlib.crc32, [b"%d" % number for number in range(1000)])
    await client.gather(futures)  # type: ignore[no-untyped-call]
    print(f"Dask's client.map     {1000 / (time.perf_counter() - begin):12,.0f} calls a second")


async def measure_data(cluster: Cluster, rounds: int) -> None:
    """A large argument, one call at a time."""
    data = os.urandom(10 * MIB)
    rates = []
    for _ in range(max(rounds // 50, 10)):
        begin = time.perf_counter()
        await cluster.run_native("hl.crc32", data)
        rates.append(10 / 1024 / (time.perf_counter() - begin))
    print(
        f"argument of 10 MiB    median {statistics.median(rates):.2f}, best {max(rates):.2f} GiB/s"
    )


async def measure_ends(cluster: Cluster, client: Client, processes: DaskProcesses) -> None:
    """How soon a cancelled kernel has ended, and a lost worker is noticed."""
    times = []
    for _ in range(50):
        job = cluster.run_native("hl.sleep", 1e6)
        await asyncio.sleep(0.02)
        begin = time.perf_counter()
        job.cancel()
        await asyncio.wait([job])
        times.append((time.perf_counter() - begin) * 1e3)
    print(f"cancelling            median {statistics.median(times):.1f}, worst {max(times):.1f} ms")
    jobs = [cluster.run_native("hl.sleep", 1e6) for _ in range(2)]
    await asyncio.sleep(0.1)
    begin = time.perf_counter()
    processes.workers[0].kill()
    done, left = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
    assert isinstance(done.pop().exception(), KernelLostError)
    print(f"kill -9 of a worker   {(time.perf_counter() - begin) * 1e3:.1f} ms to KernelLostError")
    for job in left:
        job.cancel()
    await asyncio.wait(left)


async def main(rounds: int) -> None:
    with local_cluster(workers=2, threads=1) as processes:
        client = await Client(processes.address, asynchronous=True)  # type: ignore[no-untyped-call]
        await client.wait_for_workers(2)
        async with connect(client) as cluster:
            await measure_calls(cluster, client, rounds)
            await measure_batches(cluster, client, rounds)
            await measure_data(cluster, rounds)
            await measure_ends(cluster, client, processes)
        await client.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000, help="calls of each kind")
    hybridloop.run(main(parser.parse_args().rounds))
