"""The statistics of a cluster for Prometheus."""

from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry

from hybridloop.cluster import Cluster
from hybridloop.cluster.prometheus import Collector
from hybridloop.metrics import prometheus

from .support import until
from .test_backend import Here

OUTCOMES = ("done", "failed", "cancelled", "lost")


async def test_calls_and_workers(loop):
    registry = CollectorRegistry()

    def sample(name, **labels):
        return registry.get_sample_value(f"hybridloop_cluster_{name}", labels)

    async with Cluster(Here("a", "b"), per_worker=1) as cluster:
        registry.register(Collector(cluster))
        await cluster.run_native("hl.noop")
        with pytest.raises(ValueError):
            await cluster.run_native("hl.zlib.decompress", b"bad")
        jobs = [cluster.run_native("hl.sleep", 1e6) for _ in range(3)]
        await until(lambda: cluster.stats().waiting == 1)
        assert (sample("workers"), sample("waiting_calls")) == (2, 1)
        assert [sample("running_calls", worker=worker) for worker in "ab"] == [1, 1]
        assert [sample("call_limit", worker=worker) for worker in "ab"] == [1, 1]
        for job in jobs:
            job.cancel()
        await until(lambda: all(job.done() for job in jobs))
        counts = [sample("calls_total", outcome=outcome) for outcome in OUTCOMES]
        stats = cluster.stats()
        assert counts == [stats.done, stats.failed, stats.cancelled, stats.lost] == [1, 1, 3, 0]
    assert sample("workers") is sample("calls_total", outcome="done") is None


def test_a_registry_takes_it_beside_that_of_loops():
    registry = CollectorRegistry()
    registry.register(prometheus.Collector())
    cluster = Cluster(object())
    registry.register(Collector(cluster))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(Collector(cluster))
    with pytest.raises(TypeError, match="a Cluster is expected"):
        Collector("tcp://127.0.0.1:8786")


def test_a_collector_does_not_keep_a_cluster():
    collector = Collector(Cluster(object()))
    assert not [sample for family in collector.collect() for sample in family.samples]


def test_the_documentation_has_every_metric():
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    for family in Collector(Cluster(object())).describe():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"| `{name}` | {family.type} |" in page
        assert f"| {family.documentation} |" in page
