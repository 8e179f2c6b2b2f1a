"""Workers that come, also without what they need, and connections that are refused.

Workers that are not used are a private attribute.
"""

import os
import signal
import zlib

import pytest
from distributed import Client
from distributed.security import Security

from hybridloop.cluster import KernelMismatchError, connect, link

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


async def test_a_worker_that_joins_late_or_is_started_again_is_used(loop, dask, libraries):
    async with connected(dask, libraries=libraries) as cluster:
        client = client_of(cluster)
        with extra_worker(dask, "restarted", nanny=True) as nanny:
            first = await address_of(client, "restarted")
            await is_used(cluster, first)
            # The nanny starts it again.
            (pid,) = (await client.run(os.getpid, workers=[first])).values()
            os.kill(pid, signal.SIGKILL)

            # Its next address may be the same one.
            await until(lambda: first not in cluster.workers())

            async def again():
                found = await address_of(client, "restarted")
                return found if found in cluster.workers() else None

            second = await until(again)
            await is_used(cluster, second)
            # A worker notices that its nanny is gone, and ends.
            nanny.kill()
            await until(lambda: second not in cluster.workers())
        assert cluster.stats().workers == 2


async def is_used(cluster, address):
    await until(lambda: address in cluster.workers())
    before = (await engines(cluster))[address]["done"]
    assert await cluster.run_native_many("jobs.copy", [(b"x",)] * 3) == [b"x"] * 3
    assert (await engines(cluster))[address]["done"] == before + 1
    loops = await client_of(cluster).run(loop_class)
    assert loops[address] == "hybridloop.loop.Loop"


async def loop_class():
    import asyncio

    loop = type(asyncio.get_running_loop())
    return f"{loop.__module__}.{loop.__qualname__}"


async def test_the_worker_command_runs_on_hybridloop(loop, dask):
    async with dask_client(dask) as client:
        assert set((await client.run(loop_class)).values()) == {"hybridloop.loop.Loop"}


async def test_a_worker_without_the_library_is_named(loop, dask, tmp_path):
    path = tmp_path / "path"
    path.mkdir()
    (path / "only_here.py").write_text(
        "import hybridloop\n"
        "hybridloop.register_kernel('only.here', ('libm.so.6', 'cbrt'), 'f64(f64)', replace=True)\n"
    )
    with extra_worker(dask, "equipped", path=[path]):
        async with dask_client(dask, workers=3) as client:
            equipped = await address_of(client, "equipped")
            with pytest.raises(KernelMismatchError) as caught:
                async with connect(client, libraries=["only_here"]):
                    pass
            others = set(await client.scheduler.ncores()) - {equipped}
            assert caught.value.workers.keys() == others
            for address in others:
                reason = caught.value.workers[address]
                assert reason.startswith("'only_here' cannot be loaded: ModuleNotFoundError")
                assert f"worker {address}: {reason}" in str(caught.value)
            # It has loaded it, and now has a kernel that the others lack.
            async with connect(client, ping=None) as cluster:
                await until(lambda: len(cluster.workers()) == 3)
                assert "only.here" not in cluster.kernels
                with pytest.raises(KernelMismatchError) as caught:
                    cluster.run_native("only.here", 1.0)
                assert caught.value.workers == dict.fromkeys(others, "it lacks only.here")


async def test_a_late_worker_without_the_library_is_not_used(loop, dask, job_library, tmp_path):
    library = tmp_path / "jobs.so"
    library.write_bytes(job_library.read_bytes())
    async with connected(dask, libraries=[str(library)]) as cluster:
        library.unlink()
        with pytest.warns(RuntimeWarning, match="not used: worker .*jobs.so.* cannot be loaded"):
            with extra_worker(dask, "late"):
                address = await address_of(client_of(cluster), "late")
                await until(lambda: address in cluster._rejected)
                assert address not in cluster.workers()
                assert await cluster.run_native("jobs.copy", b"x") == b"x"
        await until(lambda: address not in cluster._rejected)


@pytest.fixture
def short_delays(monkeypatch):
    """A worker whose plugin is not there is asked again soon."""
    monkeypatch.setattr(link, "_PLUGIN_DELAYS", (0.01,))


async def test_a_worker_without_hybridloop_is_named(loop, tmp_path, short_delays):
    # In its place the worker finds this.
    path = tmp_path / "path"
    path.mkdir()
    (path / "hybridloop.py").write_text("raise ModuleNotFoundError('No hybridloop here')")
    dask = DaskProcesses(tmp_path)
    try:
        dask.start_worker("plain", program=["distributed.cli.dask_worker"], path=[path])
        async with dask_client(dask, workers=1) as client:
            (address,) = await client.scheduler.ncores()
            with pytest.raises(KernelMismatchError, match="install hybridloop on the worker") as it:
                async with connect(client):
                    pass
            assert it.value.workers.keys() == {address}
            assert "No hybridloop here" in dask.logs()
    finally:
        dask.close()


async def test_a_worker_that_gets_its_plugin_late_is_used_then(loop, dask, short_delays):
    async with connected(dask) as cluster:
        client, address = client_of(cluster), min(cluster.workers())
        await client.run(take_handler_away, workers=[address])
        try:
            with pytest.warns(RuntimeWarning, match="not used: worker .* plugin .* is not there"):
                for comm in cluster._backend._links[address]._comms:
                    comm.abort()
                await until(lambda: address in cluster._rejected)
        finally:
            await client.run(give_handler_back, workers=[address])
        await until(lambda: address in cluster.workers())
        assert address not in cluster._rejected


async def take_handler_away(dask_worker):
    del dask_worker.handlers["hybridloop"]


async def give_handler_back(dask_worker):
    dask_worker.handlers["hybridloop"] = dask_worker.plugins["hybridloop"].server.serve


async def test_off_loopback_it_asks_for_tls_or_words(loop):
    for address in ("tcp://192.0.2.7:8786", "192.0.2.7:8786", "tcp://example.invalid:8786"):
        with pytest.raises(PermissionError, match="would not be encrypted.*'trusted network'"):
            async with connect(address):
                pass
    with pytest.raises(ValueError, match="security must be a distributed.Security or"):
        connect("tcp://127.0.0.1:1", security="yes")
    for wrong in ({"ping": 0}, {"per_worker": 0}):
        with pytest.raises(ValueError):
            connect("tcp://127.0.0.1:1", **wrong)
    with pytest.raises(TypeError, match="libraries must be a list"):
        connect("tcp://127.0.0.1:1", libraries="jobs.so")


async def test_the_address_alone_is_enough(loop, dask):
    async with connect(dask.address, ping=60) as cluster:
        await until(lambda: len(cluster.workers()) == 2)
        assert await cluster.run_native("hl.noop") is None
        # The first ping is sent at once.
        await until(lambda: all(worker.engine for worker in cluster.workers().values()))
        (worker, *_) = cluster.workers().values()
        assert (worker.threads, worker.limit, worker.running) == (1, 2, 0)
        assert worker.engine["threads"] == 1


async def test_tls(loop, tmp_path, authority):
    files = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")}
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(files["cert"])
    issued.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["ca"])
    options = ["--tls-ca-file", files["ca"], "--tls-cert", files["cert"], "--tls-key", files["key"]]
    security = Security(
        tls_ca_file=files["ca"],
        tls_client_cert=files["cert"],
        tls_client_key=files["key"],
        require_encryption=True,
    )
    dask = DaskProcesses(tmp_path, options=[*options, "--protocol", "tls"])
    try:
        assert dask.address.startswith("tls://")
        dask.start_worker("encrypted")
        async with connect(dask.address, ping=None, security=security) as cluster:
            await until(cluster.workers)
            data = bytes(5_000_000)
            for options in ({}, {"retries": 0}):
                assert await cluster.run_native("hl.crc32", data, **options) == zlib.crc32(data)
            assert all(address.startswith("tls://") for address in cluster.workers())
    finally:
        dask.close()


def test_workers_in_this_process(run_script):
    """Without connections: there, too, values keep what they are."""
    source = """
        from distributed import Client, LocalCluster
        from hybridloop.cluster import connect

        async def main():
            options = dict(n_workers=1, threads_per_worker=2, processes=False, asynchronous=True)
            async with LocalCluster(dashboard_address=None, **options) as local:
                async with Client(local, asynchronous=True) as client:
                    assert local.scheduler_address.startswith("inproc://")
                    async with connect(client, ping=None) as cluster:
                        data = bytes(range(200)) * 100
                        assert await cluster.run_native("hl.base64.decode", b"eA==") == b"x"
                        small = await cluster.run_native("hl.zstd.compress", data)
                        assert await cluster.run_native("hl.zstd.decompress", small) == data
                        ref = await cluster.put(data)
                        assert await cluster.run_native("hl.zstd.compress", ref) == small
                        again = await cluster.run_native("hl.zstd.compress", ref, retries=0)
                        assert again == small

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
    """
    run_script(source)


async def test_a_client_of_another_loop_is_refused(loop, dask):
    client = Client(dask.address, set_as_default=False)
    try:
        with pytest.raises(ValueError, match="asynchronous=True"):
            async with connect(client):
                pass
    finally:
        client.close()
