"""Servers and load generators as child processes."""

from __future__ import annotations

import functools
import json
import os
import re
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
from benchmarks.loops import LIMIT, OWN_STREAMS, environment_of, loop_of
from benchmarks.servers import ON_OWN_STREAMS, SERVERS

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 20.0
STOP_TIMEOUT = 20.0
DEATH_TIMEOUT = 1.0
SETTLE = 0.005
REASON_SIZE = 200


class Unavailable(Exception):
    """A measurement that can't be made, with the reason that the report shows."""


def reason_of(errors: str) -> str:
    """Return one line on why a Python program failed, from what it wrote to standard error."""
    lines = errors.strip().splitlines()
    reason = lines[-1].strip()[:REASON_SIZE] if lines else ""
    places = re.findall(r'^ *File ".*", line \d+, in (\w+)$', errors, re.MULTILINE)
    # An exception without a text: its place says more than its name.
    return f"{reason} in {places[-1]}()" if places and reason.isidentifier() else reason


def numbers_of(
    module: str, *arguments: str, timeout: float, env: dict[str, str] | None = None
) -> dict[str, float]:
    """Run a module in a process of its own; the numbers that it prints as JSON."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        result = subprocess.run(
            command,
            check=False,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"not done within {timeout:.0f} s") from None
    if result.returncode:
        raise Unavailable(reason_of(result.stderr) or f"exit status {result.returncode}")
    numbers: dict[str, float] = json.loads(result.stdout)
    return numbers


class Child:
    """A child process that speaks in lines on its standard output."""

    def __init__(self, command: Sequence[str], core: int, env: dict[str, str] | None = None):
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - stop() closes it
        with pinned(core):
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                # The load generator ends with one line on what went wrong.
                env={**os.environ, "RUST_BACKTRACE": "0", **(env or {})},
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
        return reason_of(self.errors()) or f"exit status {code}"

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
    """A server under test, and its address in the load generator's terms."""

    address: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def check_alive(self, timeout: float, cause: Unavailable | None = None) -> None:
        """Raise Unavailable if the server ends within a time."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
            raise Unavailable(self.failure()) from cause

    def cpu_ns(self) -> int:
        """Return the server's CPU time so far, once it has gone idle."""
        time.sleep(SETTLE)
        return cpu_ns(self.pid)


@functools.cache
def certificate() -> tempfile.TemporaryDirectory[str]:
    """Return a folder with a fresh certificate for the TLS servers; it goes with this process."""
    folder = tempfile.TemporaryDirectory()
    subprocess.run([str(rust_binary("certificate")), folder.name], check=True)
    return folder


def server_command(kind: str, column: str, path: str) -> list[str]:
    """Return what runs a kind of server on a loop, a variant or a reference."""
    scheme = SERVERS[kind].scheme
    options = ["--path", path] if scheme == "unix" else []
    if scheme == "tls":
        options = ["--certificate", certificate().name]
    if column == LIMIT:
        options += ["--udp"] if scheme == "udp" else []
        return [str(rust_binary("epoll-echo")), *options]
    if column == OWN_STREAMS:
        kind = ON_OWN_STREAMS[kind]
    return [sys.executable, "-m", "benchmarks.servers", kind, "--loop", loop_of(column), *options]


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
    with tempfile.TemporaryDirectory() as folder:
        command = server_command(kind, loop, str(Path(folder) / "socket"))
        child = Server([*prefix, *command], core, {**environment_of(loop), **(env or {})})
        try:
            child.address = json.loads(child.read_line(start_timeout))["address"]
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
    reconnect: bool = False


class Load(Child):
    """The load generator, warmed up and waiting for the window to begin."""

    def run(self, timeout: float) -> dict[str, Any]:
        """Do the measured window and return its report."""
        self.write_line()
        report: dict[str, Any] = json.loads(self.read_line(timeout))
        return report


@contextmanager
def load(address: str, echo: Echo, core: int, *, timeout: float = 60.0) -> Iterator[Load]:
    """Connect a load generator to a server and warm the server up."""
    command = [str(rust_binary("loadgen")), address, "--barrier"]
    command += ["--size", str(echo.size), "--connections", str(echo.connections)]
    command += ["--warmup", str(echo.warmup)]
    if address.startswith("tls:"):
        command += ["--certificate", certificate().name]
    if echo.reconnect:
        command += ["--reconnect"]
    else:
        command += ["--depth", str(echo.depth), "--think-us", str(echo.think_us)]
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
