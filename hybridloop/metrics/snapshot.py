"""`snapshot()`: the statistics of all open loops and engines of the process."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from .._core import __version__, _used_default_engine
from ..engine.engine import open_engines
from ..engine.stats import EngineStats, ThreadStats
from ..loop.loop import open_loops
from ..loop.stats import LoopStats
from ..native.stats import BusStats, NativeStats, native_stats

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from ..engine import Engine
    from ..loop.loop import Loop

    _D = TypeVar("_D", bound=DataclassInstance)

FORMAT = 2
"""The version of `ProcessStats.as_dict()`. It changes if keys change, but not for new keys."""


@dataclass(frozen=True, slots=True)
class LoopInfo:
    """One loop of a process."""

    number: int
    """Its number; the first loop of the process has the number 1."""

    thread: str
    """The name of the thread that runs it, or of the last one that was seen; may be empty."""

    running: bool
    """Whether it is running."""

    tasks: int | None
    """Its asyncio tasks that are not done; `None` if they were not counted."""

    stats: LoopStats
    """Its counters."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """One engine of a process."""

    number: int
    """Its number; the first engine that was started has the number 1."""

    stats: EngineStats
    """Its counters."""


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """The open loops and engines of a process."""

    pid: int | None
    """The process ID; `None` if it is not known."""

    program: str
    """The program and its arguments."""

    python: str
    """The version of its Python."""

    hybridloop: str
    """The version of its hybridloop."""

    time: float
    """The time of the snapshot, in seconds since the epoch."""

    loops: tuple[LoopInfo, ...]
    """Its loops in the order of their numbers; those of engines included."""

    engines: tuple[EngineInfo, ...]
    """Its engines."""

    native: NativeStats | None = None
    """The native workers of the process-wide engine, once it is in use."""

    bus: BusStats | None = None
    """The memory bus of the process-wide engine."""

    def as_dict(self) -> dict[str, Any]:
        """The snapshot as plain data, for JSON."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProcessStats:
        """The snapshot for data of `as_dict()`, possibly of another version with the same format.

        `ValueError` for other data.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise ValueError(f"no statistics, or not of format {FORMAT}")
        try:
            return _make(
                cls,
                data,
                loops=tuple(
                    _make(LoopInfo, it, stats=_make(LoopStats, it["stats"])) for it in data["loops"]
                ),
                engines=tuple(_make(EngineInfo, it, stats=_engine(it)) for it in data["engines"]),
                **_native(data),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"incomplete statistics: {error!r}") from error


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "None": (type(None),),
}


def _check(name: str, annotation: str, value: Any) -> None:
    """`TypeError` for a value of another type, which another process may send."""
    if not any(isinstance(value, _TYPES[part]) for part in annotation.split(" | ")):
        raise TypeError(f"{name} is of type {type(value).__name__}")


def _make(cls: type[_D], data: Mapping[str, Any], **made: Any) -> _D:
    """Make a dataclass of the known keys; a missing one, of an older version, is 0."""
    for it in fields(cls):
        if it.name not in made and it.name in data:
            _check(it.name, str(it.type), data[it.name])
    return cls(**{it.name: data.get(it.name, 0) for it in fields(cls)} | made)


def _native(data: Mapping[str, Any]) -> dict[str, Any]:
    native, bus = data.get("native"), data.get("bus")
    return {
        "native": None if native is None else _make(NativeStats, native),
        "bus": None if bus is None else _make(BusStats, bus),
    }


def _engine(info: Mapping[str, Any]) -> EngineStats:
    stats = info["stats"]
    threads = tuple(
        _make(ThreadStats, it, loop=_make(LoopStats, it["loop"])) for it in stats["threads"]
    )
    return _make(EngineStats, stats, threads=threads, **_native(stats))


# The names of the threads in which loops were last seen, by the numbers of the loops.
_last_thread_names: dict[int, str] = {}


def snapshot(*, tasks: bool = True) -> ProcessStats:
    """The statistics of all open loops and engines of this process; in any thread.

    With `tasks`, the asyncio tasks of each loop are counted by iterating over them.
    """
    return take_snapshot(None, tasks=tasks)


def take_snapshot(chosen: Set[Engine | Loop] | None, *, tasks: bool) -> ProcessStats:
    """A snapshot of the chosen engines, with their loops, and loops; of all for `None`."""
    engines = open_engines()
    loops = open_loops()
    _forget_closed({number for number, _ in loops})
    if chosen is not None:
        engines = [it for it in engines if it[1] in chosen]
        wanted = {*chosen, *(loop for _, engine in engines for loop in engine._open_loops())}
        loops = [it for it in loops if it[1] in wanted]
    infos = [EngineInfo(number, it.stats()) for number, it in sorted(engines, key=_number)]
    return ProcessStats(
        os.getpid(),
        _program(),
        ".".join(map(str, sys.version_info[:3])),
        __version__,
        time.time(),
        tuple(_inspect(loops, tasks=tasks)),
        tuple(infos),
        *native_stats(_used_default_engine() if chosen is None else None),
    )


def _number(numbered: tuple[int, object]) -> int:
    return numbered[0]


def _forget_closed(live_numbers: Set[int]) -> None:
    for number in list(_last_thread_names):
        if number not in live_numbers:
            _last_thread_names.pop(number, None)


def _inspect(loops: list[tuple[int, Loop]], *, tasks: bool) -> list[LoopInfo]:
    counted = count_tasks([loop for _, loop in loops]) if tasks else None
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    infos = []
    for number, loop in sorted(loops, key=_number):
        ident = loop._thread_id
        if ident and ident in names:
            _last_thread_names[number] = names[ident]
        infos.append(
            LoopInfo(
                number,
                _last_thread_names.get(number, ""),
                bool(ident),
                None if counted is None else counted[id(loop)],
                loop.stats(),
            )
        )
    return infos


def count_tasks(loops: list[Loop]) -> Counter[int]:
    """The number of tasks of each loop that are not done, by the `id()` of the loop.

    It works in any thread. Up to Python 3.13 `asyncio.all_tasks()` starts over when another thread
    makes a task meanwhile, and may never end; this copies the set atomically instead.
    """
    if sys.version_info >= (3, 14):
        return Counter({id(loop): len(asyncio.all_tasks(loop)) for loop in loops})
    name = "_all_tasks" if sys.version_info < (3, 12) else "_scheduled_tasks"
    count: Counter[int] = Counter()
    for ref in list(getattr(asyncio.tasks, name).data):
        task = ref()
        if task is not None and not task.done():
            count[id(task.get_loop())] += 1
    return count


def _program() -> str:
    """The program and its arguments, on one line."""
    arguments = sys.orig_argv[1:] or sys.argv
    return " ".join(arguments)[:200]
