"""The output of `top`: one snapshot, with rates if there is an earlier one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from .client import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from ..loop.stats import LoopStats
    from ..native.stats import BusStats, NativeStats
    from .snapshot import EngineInfo, LoopInfo, ProcessStats

__all__ = ["render"]

_NONE = Text("-", style="dim")


def render(
    now: ProcessStats, before: ProcessStats | None = None, seconds: float = 0.0
) -> RenderableType:
    """One frame, with the rates of the `seconds` since `before`.

    Without `before`, the rates of a loop are those of all the time that it has run.
    """
    if seconds <= 0:
        before = None
    earlier = {} if before is None else {it.number: it.stats for it in before.loops}
    parts: list[RenderableType] = [_title(now)]
    if now.loops:
        parts.append(_loops(now, earlier, seconds))
    else:
        parts.append(Text("no loop is open", style="dim"))
    engines = {} if before is None else {it.number: it for it in before.engines}
    for engine in now.engines:
        parts += _engine(engine, engines.get(engine.number), seconds)
    if now.native is not None:
        parts.append(Text())
        parts.append(_native(now.native, None if before is None else before.native, seconds))
    if now.bus is not None:
        parts.append(_bus(now.bus, None if before is None else before.bus, seconds))
    return Group(*parts)


def _title(now: ProcessStats) -> Text:
    title = Text(style="bold", no_wrap=True, overflow="ellipsis")
    if now.pid is not None:
        title.append(f"{now.pid} ")
    title.append(printable(now.program))
    versions = f"  Python {now.python}, hybridloop {now.hybridloop}"
    title.append(printable(versions), style="not bold dim")
    title.append(time.strftime("  %H:%M:%S", time.localtime(now.time)), style="not bold dim")
    return title


def _loops(now: ProcessStats, earlier: Mapping[int, LoopStats], seconds: float) -> Table:
    table = _table()
    table.add_column("LOOP", justify="right", no_wrap=True)
    table.add_column("THREAD")
    columns = ["TASKS", "READY", "TIMERS", "CONNS", "CALLS/s", "IN B/s", "OUT B/s", "BUSY", "MAX"]
    # Few programs have functions that wait.
    with_waits = any(loop.stats.waits for loop in now.loops)
    if with_waits:
        columns.append("WAITING")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for loop in now.loops:
        row = _loop(loop, earlier.get(loop.number), seconds)
        if with_waits:
            row.append(Text(_count(loop.stats.waiting_functions)))
        table.add_row(*row)
    return table


def _loop(loop: LoopInfo, before: LoopStats | None, seconds: float) -> list[Text]:
    stats = loop.stats
    if before is None:
        # The average over the whole run.
        seconds = stats.running_seconds

    def rate(field: str) -> float | None:
        count: float = getattr(stats, field)
        if before is not None:
            count -= getattr(before, field)
        return count / seconds if seconds else None

    busy = rate("busy_seconds")
    return [
        Text(str(loop.number)),
        _thread(loop.thread, "" if loop.running else "dim"),
        _NONE if loop.tasks is None else Text(_count(loop.tasks)),
        Text(_count(stats.ready)),
        Text(_count(stats.timers)),
        Text(_count(stats.transports)),
        _rate(rate("callbacks")),
        _rate(rate("bytes_in"), 1024),
        _rate(rate("bytes_out"), 1024),
        _NONE if busy is None else _share(min(busy, 1.0)),
        Text(_duration(stats.longest_iteration)),
    ]


def _engine(engine: EngineInfo, before: EngineInfo | None, seconds: float) -> list[RenderableType]:
    stats = engine.stats
    earlier = None if before is None else before.stats
    spawned = None if earlier is None else (stats.spawned - earlier.spawned) / seconds
    line = Text.assemble(
        (f"engine {engine.number}", "bold"),
        f"  running {_count(stats.running)} of {_count(stats.capacity)}",
        f"  waiting {_count(stats.pending)} of {_count(stats.max_pending)}",
        f"  spawned {_count(stats.spawned)}",
    )
    if spawned is not None:
        line.append(f" ({_short(spawned)}/s)")
    table = _table()
    table.add_column("THREAD")
    for name in ("RUNNING", "PINNED", "LOAD"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for thread in stats.threads:
        table.add_row(
            _thread(thread.name),
            f"{_count(thread.running)} of {_count(stats.tasks_per_thread)}",
            _count(thread.pending),
            _share(thread.load),
            Text("failed", style="bold red") if thread.failed else "",
        )
    parts: list[RenderableType] = [Text(), line, table]
    if stats.native is not None:
        parts.append(_native(stats.native, None if earlier is None else earlier.native, seconds))
    if stats.bus is not None:
        parts.append(_bus(stats.bus, None if earlier is None else earlier.bus, seconds))
    return parts


def _native(now: NativeStats, before: NativeStats | None, seconds: float) -> Text:
    line = Text.assemble(("native", "bold"), f"  workers {now.busy} of {now.workers} busy  ")
    line.append_text(_share(now.busy / now.workers if now.workers else 0.0))
    line.append(f"  queue {_count(now.queued)}")
    # Few programs have kernels that leave their ends to others.
    if now.pending:
        line.append(f"  pending {_count(now.pending)}")
    line.append(f"  done {_count(now.done)}")
    if before is not None:
        line.append(f" ({_short((now.done - before.done) / seconds)}/s)")
    line.append(f"  failed {_count(now.failed)}", style="red" if now.failed else "")
    line.append(f"  cancelled {_count(now.cancelled)}  memory {_short(now.memory, 1024)}")
    return line


def _bus(now: BusStats, before: BusStats | None, seconds: float) -> Text:
    line = Text.assemble(
        ("bus", "bold"),
        f"  {_short(now.bytes, 1024)} of {_short(now.capacity, 1024)}  ",
    )
    line.append_text(_share(now.bytes / now.capacity if now.capacity else 0.0))
    line.append(f"  keys {_count(now.keys)}")
    for field in ("writes", "reads"):
        count = getattr(now, field)
        line.append(f"  {field} {_count(count)}")
        if before is not None:
            line.append(f" ({_short((count - getattr(before, field)) / seconds)}/s)")
    line.append(f"  evicted {_count(now.evictions)}  refused {_count(now.refused)}")
    return line


def _table() -> Table:
    return Table(box=None, pad_edge=False, header_style="reverse", padding=(0, 1, 0, 0))


def _thread(name: str, style: str = "") -> Text:
    """The column that is shortened in a narrow terminal."""
    return Text(printable(name) or "-", style, no_wrap=True, overflow="ellipsis")


def _count(number: int) -> str:
    return f"{number:,}" if number < 1_000_000 else _short(number)


def _rate(number: float | None, step: int = 1000) -> Text:
    return _NONE if number is None else Text(_short(number, step))


def _short(number: float, step: int = 1000) -> str:
    """Three digits and a prefix, for bytes with a `step` of 1024."""
    prefixes = ("", "k", "M", "G", "T", "P") if step == 1000 else ("", "K", "M", "G", "T", "P")
    for prefix in prefixes:
        if abs(number) < step * 0.9995 or prefix == prefixes[-1]:
            break
        number /= step
    digits = 0 if abs(number) >= 99.95 or (not prefix and number == int(number)) else 1
    return f"{number:.{digits}f}{prefix}"


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            return f"{seconds / size:.{0 if seconds >= 99.95 * size else 1}f}{unit}"
    return f"{seconds * 1e6:.0f}µs"


def _share(share: float) -> Text:
    style = "bold red" if share >= 0.9 else "yellow" if share >= 0.6 else ""
    return Text(f"{share:.0%}", style=style)
