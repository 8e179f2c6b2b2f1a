"""The sources of snapshots for `top`: a process of this machine, or a Prometheus endpoint."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..engine.stats import EngineStats, ThreadStats
from ..loop.stats import LoopStats
from ..native.stats import BusStats, NativeStats
from . import socket_path
from .metrics import BUS, ENGINE, LOOP, NATIVE, RUNNING, TASKS, THREAD, Metric
from .snapshot import EngineInfo, LoopInfo, ProcessStats

__all__ = ["ProcessEnded", "ProcessSource", "Source", "SourceError", "UrlSource", "open_source"]

# The largest response, in bytes.
_MAX_RESPONSE = 64 * 1024 * 1024
_TIMEOUT = 5.0

_HINT = "start it with HYBRIDLOOP_OBSERVE=1, or call hybridloop.metrics.serve() in it"


def printable(text: str) -> str:
    """Text of another program without control characters for the terminal."""
    return "".join(it if it.isprintable() else "?" for it in text)


class SourceError(Exception):
    """The statistics cannot be read. The message has no control characters for the terminal."""

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(printable, message.split("\n"))))


def _line(error: object) -> str:
    """The message of an error of the network or of a parser, as one line."""
    return " ".join(str(error).split()) or type(error).__name__


class ProcessEnded(SourceError):
    """The process has ended."""


class Source(Protocol):
    """A source of snapshots."""

    name: str

    def read(self) -> ProcessStats:
        """Take a snapshot now; `SourceError` if that is impossible."""
        ...


class ProcessSource:
    """A process that serves its statistics at a Unix socket."""

    def __init__(self, path: Path, pid: int | None = None) -> None:
        self.name = str(path) if pid is None else f"process {pid}"
        self._path = path
        self._pid = pid
        self._has_answered = False

    def read(self) -> ProcessStats:
        """Take a snapshot now; `SourceError` if that is impossible."""
        try:
            stats = self._read()
        except SourceError:
            # It may end at any point of an answer, or before it has accepted the connection.
            if self._has_answered and socket_path.is_stale(self._path):
                raise ProcessEnded(f"{self.name} has ended") from None
            raise
        self._has_answered = True
        return stats

    def _read(self) -> ProcessStats:
        try:
            with socket_path.connect(self._path) as sock:
                self._check(sock)
                answer = b"".join(self._receive(sock))
        except TimeoutError:
            raise SourceError(f"{self.name} does not answer") from None
        except (ConnectionRefusedError, FileNotFoundError):
            raise SourceError(f"no process serves statistics at {self._path}; {_HINT}") from None
        except OSError as error:
            raise SourceError(f"{self.name}: {_line(error)}") from None
        if not answer:
            raise SourceError(f"{self.name} closed the connection")
        try:
            return ProcessStats.from_dict(json.loads(answer))
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{self.name}: {_line(error)}") from None

    def _check(self, sock: socket.socket) -> None:
        """Check that the socket belongs to the process, and that both belong to the same user."""
        if self._pid is None or not hasattr(socket, "SO_PEERCRED"):
            return
        format = "iII"
        peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(format))
        pid, user, _ = struct.unpack(format, peer)
        if pid != self._pid or user != _process_owner(self._pid):
            raise SourceError(f"{self._path} does not belong to {self.name}")

    @staticmethod
    def _receive(sock: socket.socket) -> list[bytes]:
        parts = []
        size = 0
        while part := sock.recv(65536):
            parts.append(part)
            size += len(part)
            if size > _MAX_RESPONSE:
                raise SourceError("the response is too large")
        return parts


class UrlSource:
    """A Prometheus endpoint of a program with a `hybridloop.metrics.prometheus.Collector`."""

    def __init__(self, url: str) -> None:
        self.name = url
        self._url = url

    def read(self) -> ProcessStats:
        """Take a snapshot now; `SourceError` if that is impossible."""
        try:
            from prometheus_client.parser import text_string_to_metric_families
        except ImportError:
            raise SourceError(
                "reading an endpoint needs prometheus_client: pip install 'hybridloop[top]'"
            ) from None
        request = urllib.request.Request(self._url, headers={"Accept": "text/plain"})
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
                body = response.read(_MAX_RESPONSE + 1)
        except TimeoutError:
            raise SourceError(f"{self.name} does not answer") from None
        except urllib.error.URLError as error:
            raise SourceError(f"{self.name}: {_line(error.reason)}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise SourceError(f"{self.name}: {_line(error)}") from None
        if len(body) > _MAX_RESPONSE:
            raise SourceError("the response is too large")
        samples = _SampleStore()
        try:
            for family in text_string_to_metric_families(body.decode()):
                for sample in family.samples:
                    samples.add(sample.name, sample.labels, sample.value)
            return samples.process(self._url)
        except (ArithmeticError, LookupError, ValueError) as error:
            raise SourceError(
                f"{self.name} has no metrics of hybridloop.metrics.prometheus: {_line(repr(error))}"
            ) from None


_Labels = tuple[tuple[str, str], ...]


class _SampleStore:
    """Samples by their labels, to make a snapshot of."""

    def __init__(self) -> None:
        self._values: dict[_Labels, dict[tuple[str, str], float]] = defaultdict(dict)
        self._info: dict[str, str] = {}

    def add(self, name: str, labels: dict[str, str], value: float) -> None:
        if name == "hybridloop_info":
            self._info = labels
        elif name.startswith("hybridloop_"):
            outcome = labels.pop("outcome", "")
            self._values[tuple(sorted(labels.items()))][name, outcome] = value

    def process(self, url: str) -> ProcessStats:
        """The snapshot. `KeyError` and `ValueError` for labels that a `Collector` does not have."""
        labelled = [(dict(labels), values) for labels, values in self._values.items()]
        loops = []
        threads: dict[str, list[tuple[str, dict[tuple[str, str], float]]]] = defaultdict(list)
        wholes = {}
        for labels, values in labelled:
            if "loop" in labels:
                loops.append(_loop_info(labels, values))
            elif "thread" in labels:
                threads[labels["engine"]].append((labels["thread"], values))
            else:
                wholes[labels["engine"]] = values
        loops.sort(key=lambda it: it.number)
        by_thread = {it.thread: it.stats for it in loops}
        engines = []
        for name, values in wholes.items():
            if name != "default":
                stats = _engine_stats(values, threads[name], by_thread)
                engines.append(EngineInfo(int(name), stats))
        engines.sort(key=lambda it: it.number)
        default = wholes.get("default", {})
        return ProcessStats(
            pid=None,
            program=url,
            python=self._info.get("python", ""),
            hybridloop=self._info.get("version", ""),
            time=time.time(),
            loops=tuple(loops),
            engines=tuple(engines),
            native=_native(default),
            bus=_bus(default),
        )


_Values = Mapping[tuple[str, str], float]


def _fields(metrics: Sequence[Metric], values: _Values) -> dict[str, Any]:
    return {it.field: it.parse(values.get((it.sample, it.outcome or ""), 0)) for it in metrics}


def _loop_info(labels: Mapping[str, str], values: _Values) -> LoopInfo:
    tasks = values.get((TASKS.sample, ""))
    return LoopInfo(
        int(labels["loop"]),
        labels["thread"],
        bool(values.get((RUNNING.sample, ""), 0)),
        None if tasks is None else int(tasks),
        LoopStats(**_fields(LOOP, values)),
    )


def _engine_stats(
    values: _Values, threads: Sequence[tuple[str, _Values]], loops: Mapping[str, LoopStats]
) -> EngineStats:
    fields = _fields(ENGINE, values)
    places = fields["tasks_per_thread"] or 1
    idle = LoopStats(**_fields(LOOP, {}))
    made = []
    for name, of_thread in sorted(threads, key=lambda it: it[0]):
        counts = _fields(THREAD, of_thread)
        made.append(
            ThreadStats(
                name=name,
                running=counts["running"],
                pending=counts["pending"],
                load=counts["running"] / places,
                failed=bool(counts["failed"]),
                loop=loops.get(name, idle),
            )
        )
    return EngineStats(threads=tuple(made), native=_native(values), bus=_bus(values), **fields)


def _native(values: _Values) -> NativeStats | None:
    known = any((it.sample, it.outcome or "") in values for it in NATIVE)
    return NativeStats(**_fields(NATIVE, values)) if known else None


def _bus(values: _Values) -> BusStats | None:
    known = any((it.sample, "") in values for it in BUS)
    return BusStats(**_fields(BUS, values)) if known else None


def open_source(target: str | None) -> Source:
    """The source for an argument of `top`: a URL, the path of a socket, or a process ID.

    `None` stands for the only process that serves statistics. `SourceError` for anything else.
    """
    if target is None:
        return _find_single_process()
    if "://" in target:
        if not target.startswith(("http://", "https://")):
            raise SourceError(f"{target} is not an http or https URL")
        return UrlSource(target)
    if target.isdecimal():
        return _find_process(int(target))
    if os.sep in target or target.endswith(".sock"):
        return ProcessSource(Path(target))
    raise SourceError(f"{target} is neither a process ID, nor a URL, nor the path of a socket")


def _process_owner(pid: int) -> int:
    """The user ID of a process; `SourceError` if there is no such process."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        raise SourceError(f"there is no process {pid}") from None
    except PermissionError:
        pass
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return os.geteuid()


def _find_process(pid: int) -> ProcessSource:
    user = _process_owner(pid)
    for folder in socket_path.candidate_directories(user):
        if (path := folder / f"{pid}.sock").exists():
            return ProcessSource(path, pid)
    raise SourceError(f"process {pid} does not serve its statistics; {_HINT}")


def _find_single_process() -> ProcessSource:
    found = socket_path.list_served(os.geteuid())
    if not found:
        raise SourceError(f"no process of this user serves its statistics; {_HINT}")
    if len(found) > 1:
        lines = [f"\n  {pid}  {_program(path)}" for pid, path in found]
        raise SourceError(f"which process?{''.join(lines)}")
    pid, path = found[0]
    return ProcessSource(path, pid)


def _program(path: Path) -> str:
    try:
        return printable(ProcessSource(path).read().program)
    except SourceError as error:
        return f"({error})"
