"""A cluster on a backend of five operations that is not Dask: an engine in this process.

Workers that are not used are a private attribute.
"""

import asyncio
import warnings

import pytest

import hybridloop
from hybridloop.cluster import Cluster, KernelLostError, KernelMismatchError, values
from hybridloop.cluster.backend import ClusterRef, Reply, WorkerEvent, WorkerInfo

from .support import until

BUILT_IN = {
    name: (kernel.signature, kernel.doc)
    for name, kernel in hybridloop.kernels.items()
    if name.startswith("hl.")
}


class Here:
    """Workers that share one engine. What reaches them is kept in `called`."""

    def __init__(self, *addresses):
        self.engine = hybridloop.NativeEngine(native_threads=1)
        self.infos = {it: WorkerInfo(it, 1, BUILT_IN) for it in addresses}
        self.called = []
        self.jobs = {}
        self.queue = asyncio.Queue()

    async def start(self, libraries):
        pass

    async def close(self):
        self.engine.close()

    def workers(self):
        return list(self.infos.values())

    async def call(self, call, worker, retries=0):
        self.called.append(worker)
        arguments = values.decode(call.arguments, call.frames)
        for place, ref in call.refs.items():
            arguments[place] = ref.handle
        return asyncio.ensure_future(self.reply(call, arguments))

    async def reply(self, call, arguments):
        self.jobs[call.id] = self.engine.run_native(call.kernel, *arguments, timeout=call.timeout)
        try:
            return Reply([await self.jobs[call.id]])
        except asyncio.CancelledError:
            return Reply(cancelled=True)
        except Exception as error:
            return Reply(error=error)

    def cancel(self, call, worker):
        self.jobs[call.id].cancel()

    async def put(self, value, worker):
        return ClusterRef(value, len(value), {worker})

    async def events(self):
        while True:
            yield await self.queue.get()

    def join(self, address, kernels=BUILT_IN, **more):
        self.queue.put_nowait(WorkerEvent(address, WorkerInfo(address, 1, kernels, **more)))

    def leave(self, address):
        self.queue.put_nowait(WorkerEvent(address, None, "gone"))


async def test_calls(loop):
    backend = Here("a", "b")
    async with Cluster(backend) as cluster:
        assert await cluster.run_native("hl.crc32", b"x") == 2363233923
        assert await cluster.run_native("hl.crc32", b"x", retries=1) == 2363233923
        with pytest.raises(ValueError, match="hl.zstd.decompress: "):
            await cluster.run_native("hl.zstd.decompress", b"x")
        job = cluster.run_native("hl.sleep", 1e6)
        await until(lambda: len(backend.called) == 4)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        stats = cluster.stats()
        assert (stats.done, stats.failed, stats.cancelled, stats.lost) == (2, 1, 1, 0)
        assert stats.running == stats.waiting == 0


async def test_a_call_waits_for_the_first_worker(loop):
    backend = Here()
    async with Cluster(backend) as cluster:
        with pytest.raises(KernelLostError, match="the cluster has no worker"):
            await cluster.put(b"x")
        job = cluster.run_native("hl.noop")
        await until(lambda: cluster.stats().waiting == 1)
        backend.join("a")
        assert await job is None
        assert backend.called == ["a"]


async def test_a_value_is_there_again_with_its_worker(loop):
    backend = Here("a", "b")
    async with Cluster(backend) as cluster:
        ref = await cluster.put(b"x" * 5000)
        (holder,) = ref.holders
        for _ in range(3):
            await cluster.run_native("hl.sha256", ref)
        assert backend.called == [holder] * 3
        backend.leave(holder)
        await until(lambda: holder not in cluster.workers())
        with pytest.raises(KernelLostError, match="argument 0 was lost with its worker"):
            await cluster.run_native("hl.sha256", ref)
        backend.join(holder)
        await until(lambda: holder in cluster.workers())
        assert await cluster.run_native("hl.sha256", ref)
        assert backend.called[-1] == holder


async def test_a_worker_that_does_not_fit_is_not_used(loop):
    backend = Here("a")
    lacking = {name: entry for name, entry in BUILT_IN.items() if name != "hl.sort"}
    other = {**BUILT_IN, "hl.sort": ("none()", "")}
    async with Cluster(backend) as cluster:
        for kernels, reason in (
            (lacking, "worker b: it lacks hl.sort"),
            (other, r"worker b: hl.sort has the signature 'none\(\)', not 'buf\(buf values\)'"),
        ):
            with pytest.warns(RuntimeWarning, match=f"not used: {reason}"):
                backend.join("b", kernels)
                await until(lambda: "b" in cluster._rejected)
            assert cluster.workers().keys() == {"a"}
            assert "hl.sort" in cluster.kernels
            backend.leave("b")
            await until(lambda: "b" not in cluster._rejected)
        # The only one does not fit: calls say so.
        backend.leave("a")
        await until(lambda: not cluster.workers())
    backend = Here()
    async with Cluster(backend) as cluster:
        with pytest.warns(RuntimeWarning, match="not used: worker c: broken"):
            backend.join("c", {}, problem="broken")
            await until(lambda: "c" in cluster._rejected)
        with pytest.raises(KernelMismatchError, match="worker c: broken"):
            cluster.run_native("hl.noop")


async def test_a_warning_that_is_an_error_does_not_end_the_following(loop, unhandled):
    backend = Here("a")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "not used")
        async with Cluster(backend) as cluster:
            backend.join("b", {}, problem="broken")
            backend.join("c")
            await until(lambda: "c" in cluster.workers())
            assert "b" not in cluster.workers()
    assert [context["message"] for context in unhandled] == ["not used: worker b: broken"]


async def test_a_kernel_that_some_workers_have_otherwise(loop):
    backend = Here("a")
    backend.infos["a"] = WorkerInfo("a", 1, {**BUILT_IN, "x.one": ("i64()", "")})
    async with Cluster(backend) as cluster:
        assert cluster.kernels["x.one"].signature == "i64()"
        backend.join("b", {**BUILT_IN, "x.one": ("f64()", "")})
        await until(lambda: "b" in cluster.workers())
        assert "x.one" not in cluster.kernels
        with pytest.raises(
            KernelMismatchError, match=r"worker b: x.one .*'f64\(\)', not 'i64\(\)'"
        ):
            cluster.run_native("x.one")
        backend.leave("b")
        await until(lambda: "x.one" in cluster.kernels)


async def test_at_the_start_all_that_is_wrong_is_said_at_once(loop):
    backend = Here("a", "b", "c")
    lacking = {name: entry for name, entry in BUILT_IN.items() if name != "hl.sort"}
    backend.infos["a"] = WorkerInfo("a", 1, lacking)
    backend.infos["c"] = WorkerInfo("c", 1, {}, problem="no plugin")
    with pytest.raises(KernelMismatchError) as caught:
        async with Cluster(backend):
            pass
    assert caught.value.workers == {"a": "it lacks hl.sort", "c": "no plugin"}


def test_a_call_needs_a_running_loop():
    cluster = Cluster(object())
    with pytest.raises(RuntimeError, match="no running event loop"):
        cluster.run_native("hl.noop")
