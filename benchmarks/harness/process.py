"""Servers and load generators as child processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.cpu import cpu_ns, pinned
from benchmarks.harness.tools import rust_binary
from benchmarks.loops import LIMIT

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 20.0
STOP_TIMEOUT = 20.0
DEATH_TIMEOUT = 1.0
SETTLE = 0.005


class Unavailable(Exception):
    """A measurement that can't be made, with the reason that the report shows."""


class Child:
    """A child process that speaks in lines on its standard output."""

    def __init__(self, command: Sequence[str], core: int, env: dict[str, str] | None = None):
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - stop() closes it
        with pinned(core):
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.stderr,
                bufsize=0,
            )
        self.pid = self.process.pid
        self._output = b""

    def read_line(self, timeout: float) -> str:
        """Return the next line of output; Unavailable when the process ends or is too slow."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._output:
            rest = deadline - time.monotonic()
            if rest <= 0 or not select.select([self.process.stdout], [], [], rest)[0]:
                raise Unavailable(f"no answer within {timeout:.0f} s")
            chunk = self.process.stdout.read(65536)
            if not chunk:
                self.process.wait(timeout=STOP_TIMEOUT)
                raise Unavailable(self.failure())
            self._output += chunk
        line, _, self._output = self._output.partition(b"\n")
        return line.decode()

    def write_line(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    def errors(self) -> str:
        """Return what the process has written to its standard error."""
        # pread: the process writes at the file offset that both share.
        return os.pread(self.stderr.fileno(), 1 << 20, 0).decode(errors="replace").strip()

    def failure(self) -> str:
        """Say in one line why the process ended."""
        code = self.process.returncode
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        lines = self.errors().splitlines()
        return lines[-1].strip()[:200] if lines else f"exit status {code}"

    def stop(self) -> None:
        """End the process and wait until it is gone."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.stderr):
            if stream is not None:
                stream.close()


class Server(Child):
    """A server under test."""

    port: int

    def check_alive(self, timeout: float, cause: Unavailable | None = None) -> None:
        """Raise Unavailable if the server ends within a time."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
            raise Unavailable(self.failure()) from cause

    def cpu_ns(self) -> int:
        """Return the server's CPU time so far, once it has gone idle."""
        time.sleep(SETTLE)
        return cpu_ns(self.pid)


@contextmanager
def server(
    kind: str,
    loop: str,
    core: int,
    *,
    prefix: Sequence[str] = (),
    env: dict[str, str] | None = None,
    start_timeout: float = START_TIMEOUT,
) -> Iterator[Server]:
    """Run a server in its own process on one core; ``prefix`` is a command to run it under."""
    if loop == LIMIT:
        command = [str(rust_binary("epoll-echo"))]
    else:
        command = [sys.executable, "-m", "benchmarks.servers", kind, "--loop", loop]
    child = Server([*prefix, *command], core, env)
    try:
        child.port = json.loads(child.read_line(start_timeout))["port"]
        yield child
        child.check_alive(0)
    except Unavailable as error:
        # Where the server died, its own reason says more than the client's.
        child.check_alive(DEATH_TIMEOUT, error)
        raise
    finally:
        child.stop()


@dataclass(frozen=True)
class Echo:
    """What the load generator sends."""

    size: int = 1024
    connections: int = 1
    depth: int = 1
    warmup: int = 2000
    messages: int | None = None
    seconds: float = 1.0
    think_us: int = 0


class Load(Child):
    """The load generator, warmed up and waiting for the window to begin."""

    def run(self, timeout: float) -> dict[str, Any]:
        """Do the measured window and return its report."""
        self.write_line()
        report: dict[str, Any] = json.loads(self.read_line(timeout))
        return report


@contextmanager
def load(port: int, echo: Echo, core: int, *, timeout: float = 60.0) -> Iterator[Load]:
    """Connect a load generator to a server and warm the server up."""
    command = [str(rust_binary("loadgen")), f"127.0.0.1:{port}", "--barrier"]
    command += ["--size", str(echo.size), "--connections", str(echo.connections)]
    command += ["--depth", str(echo.depth), "--warmup", str(echo.warmup)]
    command += ["--think-us", str(echo.think_us)]
    if echo.messages is None:
        command += ["--seconds", str(echo.seconds)]
    else:
        command += ["--messages", str(echo.messages)]
    child = Load(command, core)
    try:
        child.read_line(timeout)
        yield child
    finally:
        child.stop()
