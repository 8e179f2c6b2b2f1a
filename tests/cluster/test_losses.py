"""What happens to calls whose worker dies, stops or is cut off. No test waits for a time to pass.

The connections of the client are private attributes.
"""

import asyncio
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import zlib

import pytest

from hybridloop.cluster import KernelLostError, connect

from .support import (
    DaskProcesses,
    address_of,
    client_of,
    connected,
    dask_client,
    engines,
    extra_worker,
    until,
)

FOREVER = 1e6


async def busy_workers(cluster):
    return {name for name, it in (await engines(cluster)).items() if it["running"]}


async def test_a_killed_worker(loop, dask):
    """Direct calls are lost, a batch loses a part, and scheduled calls are run again."""
    with extra_worker(dask, "victim") as victim:
        async with connected(dask, workers=3) as cluster:
            address = await address_of(client_of(cluster), "victim")
            refs = [await cluster.put(bytes(10_000)) for _ in range(3)]
            (ref,) = [ref for ref in refs if ref.holders == {address}]
            direct = [cluster.run_native("hl.sleep", FOREVER) for _ in range(3)]
            await until(lambda: has_all(cluster, 3))
            # These wait in the engines, which have one thread.
            calls = [(b"x",)] * 3
            batch = cluster.run_native_many("hl.crc32", calls, return_exceptions=True)
            results = []
            scheduled = [cluster.run_native("hl.crc32", b"x", retries=3) for _ in range(6)]
            for job in scheduled:
                job.add_done_callback(lambda job: results.append(job.result()))
            await until(lambda: queued_on(cluster, address, 2))
            victim.kill()
            error = await first_lost(direct)
            assert isinstance(error, KernelLostError) and isinstance(error, ConnectionError)
            assert str(error).startswith(f"worker {address} was lost, the kernel may have run: ")
            # The other workers go on.
            assert sum(job.done() for job in direct) == 1
            for job in direct:
                job.cancel()
            await asyncio.wait(direct)
            checksum = zlib.crc32(b"x")
            assert await asyncio.gather(*scheduled) == [checksum] * 6 == results
            *lost, one, other = sorted(await batch, key=str)[::-1]
            assert [one, other] == [checksum] * 2
            assert [type(it) for it in lost] == [KernelLostError] and address in str(lost[0])
            await until(lambda: address not in cluster.workers())
            assert cluster.stats().lost == 2
            with pytest.raises(KernelLostError, match="argument 0 was lost with its worker"):
                await cluster.run_native("hl.sha256", ref)


async def queued_on(cluster, address, count):
    return (await engines(cluster))[address]["queued"] >= count


async def has_all(cluster, count):
    return len(await busy_workers(cluster)) == count


async def first_lost(jobs):
    """The exception of the first job that ends."""
    done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
    return done.pop().exception()


async def test_scheduled_calls_that_the_scheduler_gives_up(loop, dask):
    """Without retries they are lost; with one the client sends them again."""
    with extra_worker(dask, "given up") as victim:
        async with connected(dask, workers=3) as cluster:
            client = client_of(cluster)
            address = await address_of(client, "given up")
            allowed = await client.run_on_scheduler(allow_failures, 0)
            try:
                jobs = [cluster.run_native("hl.sleep", FOREVER, retries=0) for _ in range(3)]
                await until(lambda: is_busy(cluster, address))
                # Those of the victim are given up, too.
                again = [cluster.run_native("hl.noop", retries=1) for _ in range(6)]
                victim.kill()
                error = await first_lost(jobs)
                assert isinstance(error, KernelLostError)
                assert str(error).startswith("the kernel may have run: ")
                for job in jobs:
                    job.cancel()
                await asyncio.wait(jobs)
                assert await asyncio.gather(*again) == [None] * 6
            finally:
                await client.run_on_scheduler(allow_failures, allowed)


def allow_failures(count, dask_scheduler):
    """How often a task may lose its worker; returns what was set before."""
    before, dask_scheduler.allowed_failures = dask_scheduler.allowed_failures, count
    return before


async def is_busy(cluster, address):
    return (await engines(cluster))[address]["running"]


async def until_it_works(cluster, *call):
    """Run a kernel, again if a busy machine was taken for a lost worker."""
    while True:
        try:
            return await cluster.run_native(*call)
        except KernelLostError:
            await asyncio.sleep(0.01)


async def test_a_stopped_worker_is_lost_after_three_pings_and_used_again(loop, dask):
    with extra_worker(dask, "sleeper") as sleeper:
        async with dask_client(dask, workers=3) as client, connect(client, ping=0.5) as cluster:
            address = await address_of(client, "sleeper")
            link = await until(lambda: cluster._backend._links.get(address))
            sleeper.send_signal(signal.SIGSTOP)
            try:
                # It has connections, and TCP finds nothing wrong with them.
                message = {"kernel": "hl.noop", "arguments": [], "refs": {}, "batch": False}
                options = {"timeout": None, "priority": 0, "progress": False}
                reply = await link.call({"id": 10**9, **message, **options})
                error = (await reply).error
                assert isinstance(error, KernelLostError)
                assert str(error).startswith(f"worker {address} was lost, the kernel ")
                assert str(error).endswith(" run: it did not answer 3 pings")
                await until(lambda: address not in cluster.workers())
                assert await until_it_works(cluster, "hl.noop") is None
            finally:
                sleeper.send_signal(signal.SIGCONT)
            await until(lambda: address in cluster.workers())
            await until(lambda: works_on(cluster, address))


async def works_on(cluster, address):
    before = (await engines(cluster))[address]["done"]
    await until_it_works(cluster, "hl.noop")
    return (await engines(cluster))[address]["done"] > before


class Network:
    """A network namespace that is connected by a pair of virtual devices."""

    def __init__(self, name, number):
        self.name = name
        self.device = f"hl{number}{os.getpid()}"[:15]
        # Others may run this at the same time: of 198.18.0.0/15, which is there for tests, each
        # process has two subnets of four addresses.
        subnet = ipaddress.ip_address("198.18.0.0") + 4 * (2 * os.getpid() + number) % (1 << 17)
        self.host, self.inside = str(subnet + 1), str(subnet + 2)
        self.prefix = ("ip", "netns", "exec", name)

    def start(self):
        run("ip", "netns", "add", self.name)
        run(
            "ip",
            "link",
            "add",
            self.device,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self.name,
        )
        run("ip", "addr", "add", f"{self.host}/30", "dev", self.device)
        run("ip", "link", "set", self.device, "up")
        for command in (
            ("addr", "add", f"{self.inside}/30", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
            ("route", "add", "default", "via", self.host),
        ):
            run("ip", "-n", self.name, *command)
        # Programs can run in it, and no filter of packets is between it and this process.
        with socket.create_server((self.host, 0)) as server:
            there = f"import socket; socket.create_connection({server.getsockname()}, 30).close()"
            run(*self.prefix, sys.executable, "-c", there)

    def cut(self):
        run("ip", "link", "set", self.device, "down")

    def mend(self):
        run("ip", "link", "set", self.device, "up")

    def stop(self):
        subprocess.run(["ip", "link", "del", self.device], capture_output=True)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr}")


@pytest.fixture
def networks():
    """Two networks, if this process may make some."""
    if shutil.which("ip") is None:
        pytest.skip("needs the program ip of iproute2")
    made = [Network(f"hybridloop-{os.getpid()}-{number}", number) for number in (0, 1)]
    try:
        try:
            for network in made:
                network.start()
        except OSError as error:
            pytest.skip(f"cannot make network namespaces here: {error}")
        yield made
    finally:
        for network in made:
            network.stop()


async def test_a_cut_network(loop, tmp_path, networks):
    """The scheduler is here, each worker in a network of its own, and one of them is cut off."""
    first, second = networks
    dask = DaskProcesses(tmp_path, host=first.host)
    try:
        workers = {
            name: dask.start_worker(name, host=network.inside, prefix=network.prefix)
            for name, network in (("near", first), ("far", second))
        }
        async with dask_client(dask) as client:
            near, far = [await address_of(client, name) for name in ("near", "far")]
            async with connect(client, ping=0.5, security="trusted network") as cluster:
                await until(lambda: {near, far} <= cluster.workers().keys())
                jobs = set()

                def both_are_busy():
                    # A busy machine may be taken for a lost worker.
                    jobs.difference_update([job for job in jobs if lost(job)])
                    while len(jobs) < 2:
                        jobs.add(cluster.run_native("hl.sleep", FOREVER))
                    return [worker.running for worker in cluster.workers().values()] == [1, 1]

                await until(both_are_busy)
                second.cut()
                assert isinstance(await first_lost(jobs), KernelLostError)
                await until(lambda: far not in cluster.workers())
                for job in jobs:
                    job.cancel()
                await asyncio.wait(jobs)
                assert await until_it_works(cluster, "hl.noop") is None
                # It is started again, at the same place.
                workers["far"].kill()
                workers["far"].wait()
                second.mend()
                dask.start_worker("far-again", host=second.inside, prefix=second.prefix)
                again = await address_of(client, "far-again")
                await until(lambda: again in cluster.workers())
                assert await until_it_works(cluster, "hl.noop") is None
    finally:
        dask.close()


def lost(job):
    return job.done() and isinstance(job.exception(), KernelLostError)


async def test_scheduled_calls_of_a_worker_that_closes_are_run_again(loop, dask):
    with extra_worker(dask, "leaving"):
        async with connected(dask, workers=3) as cluster:
            client = client_of(cluster)
            address = await address_of(client, "leaving")
            direct = [cluster.run_native("hl.sleep", FOREVER) for _ in range(3)]
            await until(lambda: has_all(cluster, 3))
            jobs = [cluster.run_native("hl.crc32", b"x", retries=1) for _ in range(30)]
            await client.retire_workers([address])
            error = await first_lost(direct)
            assert isinstance(error, KernelLostError) and address in str(error)
            for job in direct:
                job.cancel()
            await asyncio.wait(direct)
            assert len(set(await asyncio.gather(*jobs))) == 1
            await until(lambda: address not in cluster.workers())
