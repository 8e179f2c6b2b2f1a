"""`Collector`: the calls and the workers of a cluster for Prometheus.

It needs prometheus_client (`pip install 'hybridloop[prometheus]'`), and may be in one registry with
`hybridloop.metrics.prometheus.Collector`. Nothing runs between two scrapes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector as _Collector

from .cluster import Cluster

__all__ = ["Collector"]


class Collector(_Collector):
    """A collector of `prometheus_client` for a `Cluster`, which is referenced weakly.

    A registry accepts one. Closed clusters are omitted.
    """

    def __init__(self, cluster: Cluster) -> None:
        if not isinstance(cluster, Cluster):
            raise TypeError(f"a Cluster is expected, not {cluster!r}")
        self._cluster = weakref.ref(cluster)

    def describe(self) -> Iterable[Family]:
        """The families without samples; the registry checks for duplicates with it."""
        return _families(None)

    def collect(self) -> Iterable[Family]:
        """The families with the current samples."""
        cluster = self._cluster()
        return _families(None if cluster is None or cluster.closed else cluster)


def _families(cluster: Cluster | None) -> list[Family]:
    workers = GaugeMetricFamily("hybridloop_cluster_workers", "Workers that are used.", labels=[])
    waiting = GaugeMetricFamily(
        "hybridloop_cluster_waiting_calls", "Calls that wait for a worker.", labels=[]
    )
    calls = CounterMetricFamily(
        "hybridloop_cluster_calls", "Calls that have ended.", labels=["outcome"]
    )
    running = GaugeMetricFamily(
        "hybridloop_cluster_running_calls", "Calls that are under way.", labels=["worker"]
    )
    limit = GaugeMetricFamily(
        "hybridloop_cluster_call_limit",
        "The largest number of calls under way that a worker may have.",
        labels=["worker"],
    )
    if cluster is not None:
        stats = cluster.stats()
        workers.add_metric([], stats.workers)
        waiting.add_metric([], stats.waiting)
        for outcome in ("done", "failed", "cancelled", "lost"):
            calls.add_metric([outcome], getattr(stats, outcome))
        for worker in cluster.workers().values():
            running.add_metric([worker.address], worker.running)
            limit.add_metric([worker.address], worker.limit)
    return [workers, waiting, calls, running, limit]
