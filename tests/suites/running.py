"""Runs one suite with one loop, in a process group of its own, and reads what came of it."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .table import Suite

ROOT = Path(__file__).parents[2]
# What the plugin is imported as: many suites have a package `tests` of their own.
ALIAS = "hybridloop_tests"
PLUGIN = f"{ALIAS}.suites.plugin"
SETTINGS = "HYBRIDLOOP_SUITES"
PASSING = ("passed", "skipped", "xfailed")
TEST_TIMEOUT = 60
TAIL = 4000


@dataclass
class Result:
    """What one test came to."""

    outcome: str
    detail: str = ""
    loops: int = 0
    stock: int = 0


@dataclass
class Run:
    """The outcomes of a suite's tests with one loop."""

    results: dict[str, Result] = field(default_factory=dict)
    # Why the whole run is worth nothing, else empty.
    broken: str = ""
    seconds: float = 0.0

    def count(self, *outcomes: str) -> int:
        return sum(result.outcome in outcomes for result in self.results.values())


def run(
    suite: Suite,
    python: Path,
    source: Path,
    loop: str,
    *,
    limit: float,
    only: Iterable[str] | None = None,
) -> Run:
    """Run the suite, or the tests of it with the ids in ``only``.

    ``loop`` is the factory as ``module:name``; empty means asyncio as it is.
    """
    with tempfile.TemporaryDirectory(prefix="suites-") as name:
        folder = Path(name)
        for part in ("path", "results", "tmp"):
            (folder / part).mkdir()
        (folder / "path" / "hybridloop").symlink_to(ROOT / "hybridloop")
        (folder / "path" / ALIAS).symlink_to(ROOT / "tests")
        environment = {
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": str(folder / "path"),
            "TMPDIR": str(folder / "tmp"),
            SETTINGS: json.dumps({"loop": loop, "results": str(folder / "results")}),
            **dict(suite.environment),
        }
        arguments = command(suite, python)
        if only is None:
            arguments += suite.targets
            if suite.processes:
                arguments += ["-p", "xdist", f"-n{suite.processes}"]
        else:
            (folder / "ids").write_text("\n".join(only), encoding="utf-8")
            arguments += [f"@{folder / 'ids'}"]
        started = time.monotonic()
        log = folder / "log"
        status = execute(arguments, source, environment, log, limit)
        outcome = Run(seconds=time.monotonic() - started)
        read_results(folder / "results", outcome, timed_out=status is None)
        if status is None:
            outcome.broken = f"not done after {limit:g} s"
        elif status not in (0, 1) or not outcome.results:  # 1: some tests failed
            outcome.broken = f"pytest ended with {status}"
        if outcome.broken:
            outcome.broken += "\n" + log.read_text(encoding="utf-8", errors="replace")[-TAIL:]
        return outcome


def command(suite: Suite, python: Path) -> list[str]:
    arguments = [str(python), "-m", "pytest", "-p", PLUGIN, "-o", "addopts=", "--rootdir=."]
    for plugin in ("timeout", "no:cacheprovider", *suite.plugins):
        arguments += ["-p", plugin]
    return [*arguments, "-q", "-rN", "--tb=short", f"--timeout={TEST_TIMEOUT}", *suite.options]


def execute(
    arguments: list[str], folder: Path, environment: dict[str, str], log: Path, limit: float
) -> int | None:
    """Run a program and end all that it started; None if it took longer than the limit."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def read_results(folder: Path, run: Run, *, timed_out: bool) -> None:
    for path in folder.glob("*.jsonl"):
        current = None
        for line in path.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if "start" in event:
                current = event["start"]
                continue
            current = None
            test = event.pop("stop")
            run.results[test] = Result(**event)
        if current is not None:
            run.results[current] = Result("hang" if timed_out else "crash")
