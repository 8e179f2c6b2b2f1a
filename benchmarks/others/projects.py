"""The projects: where their benchmarks are, how they are run, and what they print."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.cpu import choose_cores, pinned
from benchmarks.harness.process import Child, Unavailable, reason_of
from benchmarks.loops import SUBJECT
from benchmarks.others.places import environment, places, whole

CONTROL = "asyncio"
TIMEOUT = 300.0
START_TIMEOUT = 20.0


@dataclass(frozen=True)
class Pass:
    """What one run of a row says of the control and of the loop under test."""

    control: float
    tested: float


@dataclass(frozen=True)
class Project:
    """A project's benchmarks. ``run(folder, case, own, loop)`` does one pass of a case.

    ``own`` is the loop that the benchmark knows, ``loop`` what stands in its place.
    """

    name: str
    own: str
    part: str
    cases: Sequence[str]
    unit: str
    run: Callable[[Path, str, str, str], Pass]
    # Installed with the package; else in the source archive or a checkout.
    packaged: bool = False
    needs: Sequence[str] = ()
    # Whether a greater figure is the better one.
    is_rate: bool = True

    def lacks(self) -> list[str]:
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def call(command: Sequence[str], changes: dict[str, str], cwd: Path) -> str:
    """Run a program to its end and return what it printed; Unavailable if it fails."""
    try:
        result = subprocess.run(
            command,
            check=False,
            cwd=cwd,
            env=whole(changes),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"not done within {TIMEOUT:.0f} s") from None
    if result.returncode:
        raise Unavailable(reason_of(result.stderr) or f"exit status {result.returncode}")
    return result.stdout


def first_number(pattern: str, text: str) -> float:
    """Return the number that a pattern finds; Unavailable if it is not there."""
    found = re.search(pattern, text)
    if found is None:
        raise Unavailable("it printed no figure")
    return float(found[1].replace(",", ""))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(server: Child, port: int) -> None:
    """Wait until a server accepts connections."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise Unavailable(server.failure())
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise Unavailable("the server does not listen")


def echo(
    server: Sequence[str],
    client: Sequence[str],
    figure: Callable[[str], float],
    own: str,
    loop: str,
) -> float:
    """Run an echo server and its client, each on a core of its own; the rate that is printed."""
    server_core, client_core = choose_cores()
    port = free_port()
    address = ["--addr", f"127.0.0.1:{port}"]
    with places(own if loop == SUBJECT else None) as folder:
        child = Child([sys.executable, *server, *address], server_core, environment(folder))
        try:
            wait_for(child, port)
            with pinned(client_core):
                command = [sys.executable, *client, *address]
                return figure(call(command, environment(folder), folder))
        finally:
            child.stop()


UVLOOP_MODES = {
    "sock_*": (),
    "streams": ("--streams",),
    "Protocol": ("--proto",),
    "BufferedProtocol": ("--proto", "--buffered"),
    "TLS Protocol": ("--proto", "--ssl"),
}
UVLOOP_SIZES = {1000: 20_000, 102_400: 4_000}


def run_uvloop(folder: Path, case: str, own: str, loop: str) -> Pass:
    mode, _, size = case.rpartition(", ")
    options = UVLOOP_MODES[mode]
    number = int(size.removesuffix(" bytes"))
    bench = folder / "examples" / "bench"
    client = [str(bench / "echoclient.py"), "--msize", str(number), "--workers", "1"]
    client += ["--num", str(UVLOOP_SIZES[number]), *(["--ssl"] if "--ssl" in options else [])]
    server = [str(bench / "echoserver.py"), *options]

    def rate(text: str) -> float:
        return first_number(r"([\d.]+) requests/sec", text)

    return Pass(
        echo(server, client, rate, own, CONTROL),
        echo([*server, "--uvloop"], client, rate, own, loop),
    )


RLOOP_MODES = {"raw": (), "stream": ("--streams",), "proto": ("--proto",)}
RLOOP_SIZES = (1024, 10_240, 102_400)


def run_rloop(folder: Path, case: str, own: str, loop: str) -> Pass:
    mode, _, size = case.rpartition(", ")
    bench = folder / "benchmarks"
    client = [str(bench / "client.py"), "--duration", "1", "--output", "json"]
    client += ["--msize", size.removesuffix(" bytes")]
    server = [str(bench / "server.py"), *RLOOP_MODES[mode], "--loop"]

    def rate(text: str) -> float:
        value: float = json.loads(text)["rps"]
        return value

    return Pass(
        echo([*server, CONTROL], client, rate, own, CONTROL),
        echo([*server, own], client, rate, own, loop),
    )


ZUVLOOP_CASES = (
    "call_soon",
    "call_soon_args",
    "call_soon_threadsafe",
    "timers",
    "sleep_zero",
    "echo_1kb",
    "stream",
    "getaddrinfo",
    "process_spawn",
    "process_pipe",
)


def zuvloop_figures(text: str) -> dict[str, float]:
    """Read the lines of a case: the name of a loop, a figure and its unit."""
    lines = re.findall(r"^  (\w+)\s+([\d,]+) \S+  \(", text, re.MULTILINE)
    return {name: float(figure.replace(",", "")) for name, figure in lines}


def run_zuvloop(folder: Path, case: str, own: str, loop: str) -> Pass:
    command = [sys.executable, str(folder / "benchmarks" / "run.py"), "--repeat", "1"]
    with places(own if loop == SUBJECT else None) as path:
        figures = zuvloop_figures(call([*command, "--only", case], environment(path), path))
    if not {CONTROL, own} <= figures.keys():
        raise Unavailable("it printed no figure")
    return Pass(figures[CONTROL], figures[own])


def run_rsloop(folder: Path, case: str, own: str, loop: str) -> Pass:
    script = folder / "benches" / "compare_event_loops.py"
    command = [sys.executable, str(script), "--loops", f"{CONTROL},{own}", "--workloads", case]
    # Its own streams, which the benchmark would put in asyncio's place, are no asyncio loop.
    command += ["--no-rsloop-fast-streams", "--warmups", "1", "--repeat", "1"]
    with places(own if loop == SUBJECT else None) as path:
        output = path / "figures.json"
        call([*command, "--json-output", str(output)], environment(path), path)
        entries = json.loads(output.read_text(encoding="utf-8"))
    figures = {entry["loop"]: entry["runs"][0]["ops_per_sec"] for entry in entries}
    return Pass(figures[CONTROL], figures[own])


TREES = [
    f"async_tree_{name}{groups}"
    for groups in ("", "_tg")
    for name in ("none", "io", "memoization", "cpu_io_mixed")
    for name in (name, "eager" if name == "none" else f"eager_{name}")
]
PYPERFORMANCE_CASES = [*TREES, "async_generators", "asyncio_tcp", "asyncio_tcp_ssl"]


def pyperformance_command(folder: Path, case: str) -> list[str]:
    """Return a benchmark's file and its options."""
    benchmarks = folder / "data-files" / "benchmarks"
    options: list[str] = []
    name = case
    if case.startswith("async_tree_"):
        name = "async_tree"
        variant = case.removeprefix("async_tree_")
        options = [variant.removesuffix("_tg"), *(["--task-groups"] if "_tg" in variant else [])]
    elif case.endswith("_ssl"):
        name, options = case.removesuffix("_ssl"), ["--ssl"]
    return [str(benchmarks / f"bm_{name}" / "run_benchmark.py"), *options]


def pyperf_seconds(document: str) -> float:
    """Return the mean of the values in a file of pyperf."""
    (benchmark,) = json.loads(document)["benchmarks"]
    values = [value for run in benchmark["runs"] for value in run.get("values", ())]
    return statistics.fmean(values)


def run_pyperformance(folder: Path, case: str, own: str, loop: str) -> Pass:
    command = [sys.executable, *pyperformance_command(folder, case)]
    command += ["--processes", "1", "--values", "2", "--warmups", "1", "--loops", "1", "--quiet"]

    def seconds(asyncio_is: str | None) -> float:
        with places(None) as path:
            output = path / "figures.json"
            changes = environment(path, asyncio_is)
            inherited = ["--inherit-environ", ",".join(changes)]
            call([*command, *inherited, "--output", str(output)], changes, path)
            return pyperf_seconds(output.read_text(encoding="utf-8"))

    return Pass(seconds(None), seconds(loop))


def cases(modes: Sequence[str], sizes: Sequence[int]) -> list[str]:
    return [f"{mode}, {size} bytes" for mode in modes for size in sizes]


PROJECTS = {
    project.name: project
    for project in (
        Project(
            "uvloop",
            "uvloop",
            "examples/bench",
            cases(list(UVLOOP_MODES), list(UVLOOP_SIZES)),
            "requests/s",
            run_uvloop,
        ),
        Project(
            "rloop",
            "rloop",
            "benchmarks",
            cases(list(RLOOP_MODES), RLOOP_SIZES),
            "requests/s",
            run_rloop,
            needs=("numpy",),
        ),
        Project("zuvloop", "zuvloop", "benchmarks", ZUVLOOP_CASES, "per second", run_zuvloop),
        Project(
            "rsloop",
            "rsloop",
            "benches",
            ("callbacks", "tasks", "tcp_streams"),
            "operations/s",
            run_rsloop,
        ),
        Project(
            "pyperformance",
            "uvloop",
            "data-files/benchmarks",
            PYPERFORMANCE_CASES,
            "ms",
            run_pyperformance,
            packaged=True,
            needs=("pyperf",),
            is_rate=False,
        ),
    )
}
