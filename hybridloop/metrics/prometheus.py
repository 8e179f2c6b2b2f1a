"""`Collector`: statistics of loops and engines for Prometheus.

It needs prometheus_client (`pip install 'hybridloop[prometheus]'`)::

    prometheus_client.REGISTRY.register(hybridloop.metrics.prometheus.Collector())
    prometheus_client.start_http_server(9000)

The counters are always on; nothing runs between two scrapes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.registry import Collector as _Collector

from ..engine import Engine
from ..loop.loop import Loop
from .metrics import BUS, ENGINE, LOOP, NATIVE, RUNNING, TASKS, THREAD, Metric
from .snapshot import take_snapshot

if TYPE_CHECKING:
    from ..engine.stats import EngineStats
    from .snapshot import ProcessStats

__all__ = ["Collector"]


class Collector(_Collector):
    """A collector of `prometheus_client` for the statistics of loops and engines.

    Args:
        source: an `Engine`, a `Loop`, or an iterable of these, which are referenced weakly. By
            default all loops and engines of the process, now and later.
        tasks: whether to count the asyncio tasks of each loop, which iterates over all of them.

    A registry accepts one collector; pass an iterable for several engines. Closed loops and engines
    are omitted.
    """

    def __init__(
        self, source: Engine | Loop | Iterable[Engine | Loop] | None = None, *, tasks: bool = True
    ) -> None:
        self._tasks = tasks
        self._sources: weakref.WeakSet[Engine | Loop] | None = None
        if source is not None:
            chosen = list(source) if isinstance(source, Iterable) else [source]
            for it in chosen:
                if not isinstance(it, (Engine, Loop)):
                    raise TypeError(f"an Engine or a hybridloop.Loop is expected, not {it!r}")
            self._sources = weakref.WeakSet(chosen)

    def describe(self) -> Iterable[Family]:
        """The families without samples; the registry checks for duplicates with it."""
        return _Families().all()

    def collect(self) -> Iterable[Family]:
        """The families with the current samples."""
        families = _Families()
        families.add(
            take_snapshot(None if self._sources is None else set(self._sources), tasks=self._tasks)
        )
        return families.all()


class _Families:
    def __init__(self) -> None:
        self._info = InfoMetricFamily("hybridloop", "Versions of hybridloop and Python.")
        self._families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for metrics, labels in (
            ((*LOOP, RUNNING, TASKS), ["loop", "thread"]),
            (THREAD, ["engine", "thread"]),
            ((*ENGINE, *NATIVE, *BUS), ["engine"]),
        ):
            for it in metrics:
                if it.name not in self._families:
                    kind = CounterMetricFamily if it.counter else GaugeMetricFamily
                    names = [*labels, "outcome"] if it.outcome else labels
                    self._families[it.name] = kind(it.name, it.help, labels=names)

    def all(self) -> list[Family]:
        return [self._info, *self._families.values()]

    def add(self, process: ProcessStats) -> None:
        versions = {"version": process.hybridloop, "python": process.python}
        self._info.add_metric([], versions)
        for loop in process.loops:
            labels = [str(loop.number), _encodable(loop.thread)]
            self._fields(LOOP, labels, loop.stats)
            self._fields([RUNNING], labels, loop)
            if loop.tasks is not None:
                self._fields([TASKS], labels, loop)
        for engine in process.engines:
            number = str(engine.number)
            self._fields(ENGINE, [number], engine.stats)
            for thread in engine.stats.threads:
                self._fields(THREAD, [number, _encodable(thread.name)], thread)
            self._native([number], engine.stats)
        self._native(["default"], process)

    def _native(self, labels: list[str], stats: EngineStats | ProcessStats) -> None:
        if stats.native is not None:
            self._fields(NATIVE, labels, stats.native)
        if stats.bus is not None:
            self._fields(BUS, labels, stats.bus)

    def _fields(self, metrics: Sequence[Metric], labels: list[str], stats: Any) -> None:
        for it in metrics:
            values = [*labels, it.outcome] if it.outcome else labels
            self._families[it.name].add_metric(values, getattr(stats, it.field))


def _encodable(name: str) -> str:
    """The name of a thread without surrogates, which the text of a scrape cannot contain."""
    return name.encode("utf-8", "backslashreplace").decode()
