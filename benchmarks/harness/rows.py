"""The rows of the report: what is measured, and how one sample is taken."""

from __future__ import annotations

import json
import math
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from benchmarks import micro
from benchmarks.harness.cpu import pinned
from benchmarks.harness.process import ROOT, Echo, Unavailable, load, server
from benchmarks.harness.tools import program
from benchmarks.loops import LOOPS, REFERENCES

ECHO_KINDS = {
    "echo-protocol": ("protocol", "Echo: Protocol"),
    "echo-buffered": ("buffered", "Echo: BufferedProtocol"),
    "echo-streams": ("streams", "Echo: streams"),
    "echo-sock": ("sock", "Echo: sock_recv, sock_sendall"),
}
HTTP_KINDS = {"uvicorn": "uvicorn (httptools)", "aiohttp": "aiohttp"}
GROUPS = [*ECHO_KINDS, "http", "micro"]
TITLES = {
    **{group: title for group, (_, title) in ECHO_KINDS.items()},
    "http": "HTTP: hello",
    "micro": "Micro-benchmarks",
}

ECHO_WARMUP = 2000
HTTP_WARMUP_SECONDS = 1
MICRO_TIMEOUT = 120.0


@dataclass(frozen=True)
class Settings:
    """How each sample is taken."""

    server_core: int
    client_core: int
    seconds: float
    micro_rounds: int


@dataclass(frozen=True)
class Sample:
    """One measurement of one loop in one row. Rate and latencies are the client's."""

    cpu_ns: float
    per_second: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None

    def as_dict(self) -> dict[str, float]:
        return {key: value for key, value in asdict(self).items() if value is not None}


class Row(Protocol):
    """A benchmark that every loop is put through."""

    @property
    def group(self) -> str: ...
    @property
    def title(self) -> str: ...
    def runs_on(self, loop: str) -> bool: ...
    def sample(self, loop: str, settings: Settings) -> Sample: ...


def format_size(size: int) -> str:
    return f"{size // 1024} KiB" if size >= 1024 and size % 1024 == 0 else f"{size} B"


@dataclass(frozen=True)
class EchoRow:
    """An echo server under the load generator."""

    group: str
    size: int
    connections: int

    @property
    def title(self) -> str:
        plural = "" if self.connections == 1 else "s"
        return f"{format_size(self.size)}, {self.connections} connection{plural}"

    def runs_on(self, loop: str) -> bool:
        return loop in LOOPS or loop in REFERENCES

    def sample(self, loop: str, settings: Settings) -> Sample:
        kind, _ = ECHO_KINDS[self.group]
        if loop in REFERENCES:
            kind = "protocol"
        echo = Echo(self.size, self.connections, warmup=ECHO_WARMUP, seconds=settings.seconds)
        with (
            server(kind, loop, settings.server_core) as target,
            load(target.port, echo, settings.client_core) as client,
        ):
            before = target.cpu_ns()
            report = client.run(settings.seconds + 30)
            spent = target.cpu_ns() - before
        latency = report["latency_ns"]
        return Sample(
            cpu_ns=spent / report["messages"],
            per_second=report["messages_per_second"],
            p50_us=latency["p50"] / 1e3,
            p99_us=latency["p99"] / 1e3,
        )


@dataclass(frozen=True)
class HttpRow:
    """An HTTP server under wrk."""

    kind: str
    connections: int
    group: str = "http"

    @property
    def title(self) -> str:
        return f"{HTTP_KINDS[self.kind]}, {self.connections} connections"

    def runs_on(self, loop: str) -> bool:
        return loop in LOOPS

    def sample(self, loop: str, settings: Settings) -> Sample:
        seconds = max(1, math.ceil(settings.seconds))
        with server(self.kind, loop, settings.server_core) as target:
            self.wrk(target.port, HTTP_WARMUP_SECONDS, settings.client_core)
            before = target.cpu_ns()
            output = self.wrk(target.port, seconds, settings.client_core)
            spent = target.cpu_ns() - before
        requests = re.search(r"(\d+) requests in", output)
        rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
        if requests is None or rate is None or not int(requests[1]):
            raise Unavailable("wrk got no replies")
        if wrong := re.search(r"(Non-2xx.*|Socket errors.*)", output):
            raise Unavailable(f"wrk: {wrong[1]}")
        return Sample(
            cpu_ns=spent / int(requests[1]),
            per_second=float(rate[1]),
            p50_us=wrk_latency_us(output, 50),
            p99_us=wrk_latency_us(output, 99),
        )

    def wrk(self, port: int, seconds: int, core: int) -> str:
        command = ["wrk", "--threads", "1", "--connections", str(self.connections), "--latency"]
        command += ["--duration", f"{seconds}s", f"http://127.0.0.1:{port}/"]
        with pinned(core):
            result = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=seconds + 30
            )
        if result.returncode:
            raise Unavailable(f"wrk: {(result.stderr or result.stdout).strip()}")
        return result.stdout


def wrk_latency_us(output: str, percent: int) -> float | None:
    match = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)$", output, re.MULTILINE)
    return float(match[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[match[2]] if match else None


@dataclass(frozen=True)
class MicroRow:
    """A micro-benchmark in a process of its own."""

    case: str
    group: str = "micro"

    @property
    def title(self) -> str:
        return micro.CASES[self.case].title

    def runs_on(self, loop: str) -> bool:
        return loop in LOOPS

    def sample(self, loop: str, settings: Settings) -> Sample:
        command = [sys.executable, "-m", "benchmarks.micro", self.case, "--loop", loop]
        command += ["--rounds", str(settings.micro_rounds)]
        try:
            with pinned(settings.server_core):
                result = subprocess.run(
                    command,
                    check=False,
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    timeout=MICRO_TIMEOUT,
                )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"not done within {MICRO_TIMEOUT:.0f} s") from None
        if result.returncode:
            lines = result.stderr.strip().splitlines()
            raise Unavailable(lines[-1] if lines else f"exit status {result.returncode}")
        return Sample(cpu_ns=json.loads(result.stdout)["ns"])


def make_rows(
    groups: Iterable[str],
    sizes: Sequence[int],
    connections: Sequence[int],
    http_connections: int,
    cases: Iterable[str],
) -> tuple[list[Row], list[str]]:
    """Return the rows of the groups, and notes on rows that can't be measured here."""
    rows: list[Row] = []
    notes: list[str] = []
    for group in groups:
        if group in ECHO_KINDS:
            rows += [EchoRow(group, size, count) for size in sizes for count in connections]
        elif group == "micro":
            rows += [MicroRow(case) for case in cases]
        elif program("wrk"):
            rows += [HttpRow(kind, http_connections) for kind in HTTP_KINDS]
        else:
            notes.append("The HTTP rows were skipped: wrk is not installed (apt install wrk).")
    return rows, notes


@dataclass
class Result:
    """What one loop did in one row: samples, or why there are none."""

    samples: list[Sample]
    failure: str | None = None

    def cpu(self) -> float | None:
        return self.median("cpu_ns")

    def median(self, figure: str) -> float | None:
        if self.failure is not None:
            return None
        values = [getattr(sample, figure) for sample in self.samples]
        values = [value for value in values if value is not None]
        return statistics.median(values) if values else None

    def spread(self) -> tuple[float, float]:
        values = [sample.cpu_ns for sample in self.samples]
        return min(values), max(values)
