"""Rows of HTTP servers under wrk."""

from __future__ import annotations

import math
import re
import subprocess
from dataclasses import dataclass

from benchmarks.harness.cpu import pinned
from benchmarks.harness.process import Unavailable, server
from benchmarks.harness.results import Sample, Settings
from benchmarks.loops import LOOPS, OWN_STREAMS, loop_of

HTTP_KINDS = {"uvicorn": "uvicorn (httptools)", "aiohttp": "aiohttp"}
CONNECTIONS = 50
WARMUP_SECONDS = 1


@dataclass(frozen=True)
class HttpRow:
    """An HTTP server under wrk."""

    kind: str
    connections: int = CONNECTIONS
    group: str = "http"

    @property
    def title(self) -> str:
        return f"{HTTP_KINDS[self.kind]}, {self.connections} connections"

    def runs_on(self, loop: str) -> bool:
        return loop_of(loop) in LOOPS and loop != OWN_STREAMS

    def sample(self, loop: str, settings: Settings) -> Sample:
        seconds = max(1, math.ceil(settings.seconds))
        with server(self.kind, loop, settings.server_core) as target:
            self.wrk(target.port, WARMUP_SECONDS, settings.client_core)
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
