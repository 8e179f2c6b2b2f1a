"""`hybridloop.metrics.prometheus.Collector`: real expositions, parsed back."""

from __future__ import annotations

import asyncio
import gc
import itertools
import platform
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest, openmetrics, start_http_server
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

import hybridloop
from hybridloop import (
    BusStats,
    Engine,
    EngineStats,
    Loop,
    LoopStats,
    NativeStats,
    ThreadStats,
)
from hybridloop.metrics import EngineInfo, LoopInfo, ProcessStats, metrics, prometheus
from hybridloop.metrics.client import SourceError, open_source

from .conftest import Start, Top

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def exposed(*sources: object, **options: object) -> str:
    registry = CollectorRegistry()
    registry.register(prometheus.Collector(*sources, **options))  # type: ignore[arg-type]
    return generate_latest(registry).decode()


def parsed(text: str) -> Samples:
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, "each series once"
            samples[key] = sample.value
    return samples


@pytest.fixture
def worked(loop: Loop) -> Loop:
    """A loop that has run."""
    for _ in range(10):
        loop.run_until_complete(asyncio.sleep(0))
    loop.call_later(1000, int)
    return loop


def test_a_loop(worked: Loop) -> None:
    samples = parsed(exposed(worked))
    stats = worked.stats()
    ((_, labels),) = (key for key in samples if key[0] == "hybridloop_loop_iterations_total")
    assert dict(labels).keys() == {"loop", "thread"}
    assert dict(labels)["thread"] in ("", "MainThread")
    for metric in metrics.LOOP:
        assert samples[metric.sample, labels] == pytest.approx(getattr(stats, metric.field))
    assert samples["hybridloop_loop_timers", labels] == 1
    assert samples["hybridloop_loop_running", labels] == 0
    assert samples["hybridloop_loop_tasks", labels] == 0
    ((_, info),) = (key for key in samples if key[0] == "hybridloop_info")
    assert dict(info) == {"version": hybridloop.__version__, "python": platform.python_version()}


def test_counters_are_counters_and_gauges_are_not(worked: Loop) -> None:
    kinds = {it.name: it.type for it in text_string_to_metric_families(exposed(worked))}
    for metric in (*metrics.LOOP, *metrics.ENGINE, *metrics.THREAD, *metrics.NATIVE, *metrics.BUS):
        assert kinds[metric.name] == ("counter" if metric.counter else "gauge")


def test_openmetrics(worked: Loop) -> None:
    """The stricter format accepts names, units and types as well."""
    registry = CollectorRegistry()
    registry.register(prometheus.Collector(worked))
    text = openmetrics.exposition.generate_latest(registry).decode()
    families = {it.name for it in openmetrics_parser.text_string_to_metric_families(text)}
    assert {
        "hybridloop",
        "hybridloop_loop_iterations",
        "hybridloop_loop_received_bytes",
    } <= families


def test_every_field_of_the_statistics_is_exported() -> None:
    for cls, table in (
        (LoopStats, metrics.LOOP),
        (NativeStats, metrics.NATIVE),
        (BusStats, metrics.BUS),
    ):
        assert {it.field for it in table} == set(cls.__slots__)  # type: ignore[attr-defined]
    assert {it.field for it in metrics.THREAD} == set(ThreadStats.__slots__) - {  # type: ignore[attr-defined]
        "name",
        "load",
        "loop",
    }
    assert {it.field for it in metrics.ENGINE} == set(EngineStats.__slots__) - {  # type: ignore[attr-defined]
        "threads",
        "native",
        "bus",
    }


def test_the_documentation_has_every_metric() -> None:
    page = Path(__file__).parents[2] / "docs" / "observability.md"
    tables = (metrics.LOOP, metrics.THREAD, metrics.ENGINE, metrics.NATIVE, metrics.BUS)
    for metric in (*itertools.chain(*tables), metrics.RUNNING, metrics.TASKS):
        row = f"| `{metric.sample}` | {'counter' if metric.counter else 'gauge'} |"
        assert row in page.read_text(), row


def test_an_engine_and_not_others(worked: Loop) -> None:
    with Engine(gil_threads=2, tasks_per_thread=3) as engine, Engine(gil_threads=1) as other:
        handles = [engine.spawn(asyncio.sleep(1000)) for _ in range(8)]
        other.spawn(asyncio.sleep(0)).result()
        samples = parsed(exposed(engine))
        (number,) = {dict(key[1])["engine"] for key in samples if "engine" in dict(key[1])}
        for thread in ("hybridloop-gil-0", "hybridloop-gil-1"):
            labels = (("engine", number), ("thread", thread))
            assert samples["hybridloop_engine_thread_running_tasks", labels] == 3
        whole = (("engine", number),)
        assert samples["hybridloop_engine_spawned_tasks_total", whole] == 8
        assert samples["hybridloop_engine_pending_tasks", whole] == 2
        assert samples["hybridloop_engine_thread_task_limit", whole] == 3
        assert len([key for key in samples if key[0] == "hybridloop_loop_iterations_total"]) == 2
        both = parsed(exposed([engine, worked]))
        assert len([key for key in both if key[0] == "hybridloop_loop_iterations_total"]) == 3
        everything = parsed(exposed())
        assert len([key for key in everything if key[0] == "hybridloop_loop_iterations_total"]) >= 4
        assert len([key for key in everything if key[0] == "hybridloop_engine_pending_tasks"]) >= 2
        for handle in handles:
            handle.cancel()


def test_what_is_closed_ends(worked: Loop) -> None:
    with Engine() as engine:
        registry = CollectorRegistry()
        registry.register(prometheus.Collector([engine, worked]))
        assert len(parsed(generate_latest(registry).decode())) > 10
    worked.close()
    assert [name for name, _ in parsed(generate_latest(registry).decode())] == ["hybridloop_info"]


def test_holds_nothing() -> None:
    loop = hybridloop.new_event_loop()
    gone = threading.Event()
    weakref.finalize(loop, gone.set)
    collector = prometheus.Collector(loop)
    loop.close()
    del loop
    gc.collect()
    assert gone.is_set()
    assert all(not it.samples for it in collector.collect() if it.name != "hybridloop")


def test_a_registry_takes_one() -> None:
    registry = CollectorRegistry()
    registry.register(prometheus.Collector())
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(prometheus.Collector())


def test_tasks_are_counted_unless_told_not_to(worked: Loop) -> None:
    assert "hybridloop_loop_tasks{" in exposed(worked)
    assert "hybridloop_loop_tasks{" not in exposed(worked, tasks=False)


@pytest.mark.parametrize("wrong", [5, "loop", [5]])
def test_other_things_are_refused(wrong: object) -> None:
    with pytest.raises(TypeError):
        prometheus.Collector(wrong)  # type: ignore[arg-type]


def test_asyncios_loop_is_refused() -> None:
    loop = asyncio.SelectorEventLoop()
    try:
        with pytest.raises(TypeError, match="SelectorEventLoop"):
            prometheus.Collector(loop)  # type: ignore[arg-type]
    finally:
        loop.close()


def example() -> ProcessStats:
    loop = LoopStats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0.25, 0.125, 12.5, 3.5)
    idle = LoopStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)
    native, bus = NativeStats(4, 3, 20, 6, 100, 2, 1, 4096), BusStats(5, 1024, 4096, 50, 60, 7, 8)
    threads = (
        ThreadStats("hybridloop-gil-0", 5, 2, 0.5, False, loop),
        ThreadStats("hybridloop-gil-1", 0, 0, 0.0, True, idle),
    )
    return ProcessStats(
        pid=None,
        program="",
        python="3.13.0",
        hybridloop="1.0",
        time=0.0,
        loops=(
            LoopInfo(1, 'Main"Thread\\', True, 11, idle),
            LoopInfo(2, "hybridloop-gil-0", True, None, loop),
        ),
        engines=(EngineInfo(3, EngineStats(threads, 10, 70, 2, 100, native, bus)),),
        native=NativeStats(1, 1, 1, 1, 1, 1, 1, 1),
        bus=BusStats(1, 1, 1, 1, 1, 1, 1),
    )


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Offer a registry by HTTP; the URL."""
    servers = []

    def serve() -> str:
        registry = CollectorRegistry()
        registry.register(prometheus.Collector())
        server, thread = start_http_server(0, "127.0.0.1", registry)
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/metrics"

    yield serve
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_snapshot_of_the_samples_is_the_snapshot(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[[], str]
) -> None:
    """With all there can be, native workers and a bus among it."""
    monkeypatch.setattr(prometheus, "take_snapshot", lambda chosen, tasks: example())
    url = serve()
    seen = open_source(url).read()
    expected = example()
    assert seen.program == url
    for field in ("loops", "engines", "native", "bus", "python", "hybridloop"):
        assert getattr(seen, field) == getattr(expected, field)


def test_endpoints_that_are_none(serve: Callable[[], str]) -> None:
    url = serve()
    port = url.split(":")[2].split("/")[0]
    with pytest.raises(SourceError, match="refused"):
        open_source("http://127.0.0.1:9/").read()
    with pytest.raises(SourceError, match="not an http or https URL"):
        open_source(f"file://127.0.0.1:{port}/etc/passwd")
    with pytest.raises(SourceError):
        open_source("http:///").read()


def test_top_shows_an_endpoint(start: Start, top: Top) -> None:
    process = start(
        """
        import asyncio, prometheus_client, hybridloop
        from hybridloop.metrics import prometheus

        async def main():
            prometheus_client.REGISTRY.register(prometheus.Collector())
            server, _ = prometheus_client.start_http_server(0, "127.0.0.1")
            print("ready", flush=True)
            print(server.server_port, flush=True)
            await asyncio.sleep(1000)

        with hybridloop.Engine() as engine:
            handle = engine.spawn(asyncio.sleep(1000))
            hybridloop.run(main())
        """,
        HYBRIDLOOP_OBSERVE="0",
    )
    assert process.stdout is not None
    url = f"http://127.0.0.1:{int(process.stdout.readline())}/metrics"
    done = top(url, "--once")
    assert done.returncode == 0, done.stderr
    assert url in done.stdout
    assert "MainThread" in done.stdout
    assert "hybridloop-gil-0" in done.stdout
    assert "running 1 of 1,000" in done.stdout


def test_a_thread_whose_name_is_no_text_does_not_break_the_scrape() -> None:
    name = "worker-\udcff"

    def work() -> None:
        async def main() -> None:
            expositions.append(exposed(asyncio.get_running_loop()))

        hybridloop.run(main())

    expositions: list[str] = []
    thread = threading.Thread(target=work, name=name)
    thread.start()
    thread.join()
    (exposition,) = expositions
    names = {dict(key[1]).get("thread") for key in parsed(exposition)}
    assert "worker-\\udcff" in names
