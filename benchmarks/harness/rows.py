"""The rows of the report, by group."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from benchmarks import micro, trees
from benchmarks.harness.cpu import pinned
from benchmarks.harness.echo import CONNECT_ROWS, ECHO_GROUPS, RECONNECT_AT_A_TIME, echo_rows
from benchmarks.harness.http import HTTP_KINDS, HttpRow
from benchmarks.harness.process import ROOT, numbers_of, reason_of
from benchmarks.harness.results import Benchmark, Sample, Settings
from benchmarks.harness.tools import program
from benchmarks.loops import LOOPS, OWN_STREAMS, environment_of, loop_of

TITLES = {
    **{name: group.title for name, group in ECHO_GROUPS.items()},
    "connect": f"Connect, echo, close: {RECONNECT_AT_A_TIME} at a time",
    "http": "HTTP: hello",
    "micro": "Micro-benchmarks",
    "trees": "async_tree of pyperformance",
}


@dataclass(frozen=True)
class Command:
    """Another command, whose tables the report takes in, run once with each of the options."""

    title: str
    module: str
    options: Sequence[Sequence[str]] = ((),)


COMMANDS = {
    "import": Command("Import", "benchmarks.imports"),
    "memory": Command(
        "Memory per idle connection", "benchmarks.memory", ((), ("--tls", "--connections", "1000"))
    ),
    "engine": Command("Tasks handed to other threads", "benchmarks.engine"),
    "native": Command("Kernels beside run_in_executor()", "benchmarks.native"),
    "builtins": Command("Built-in kernels beside numpy, hashlib, …", "benchmarks.builtins"),
    "waiting": Command("Ordinary functions that wait", "benchmarks.waiting"),
    "awaitables": Command("Async functions in C and Rust", "benchmarks.awaitables"),
    "beside": Command("Echo beside busy workers", "benchmarks.beside"),
}
GROUPS = [*TITLES, *(name for name, command in COMMANDS.items() if find_spec(command.module))]

# Names for several groups.
SECTIONS = {
    "all": GROUPS,
    # Everything that compares the loops by rows, and what belongs to a program that uses one.
    "loops": [*TITLES, "import", "memory"],
    "echo": list(ECHO_GROUPS),
    "tcp": ["echo-protocol", "echo-buffered", "echo-streams", "echo-sock"],
    "tls": ["echo-tls", "echo-tls-streams"],
}

# In each process, after what warms it up: the repeats are the rounds.
CASE_ROUNDS = 1
CASE_TIMEOUT = 120.0
COMMAND_TIMEOUT = 600.0


def expand(names: Iterable[str]) -> list[str]:
    """Return the groups that names of groups and sections stand for, in the report's order."""
    chosen = {group for name in names for group in SECTIONS.get(name, [name])}
    return [group for group in GROUPS if group in chosen]


@dataclass(frozen=True)
class ProcessRow:
    """A case of a module that measures it in a process of its own and prints the figures."""

    module: str
    case: str
    title: str
    group: str

    def runs_on(self, loop: str) -> bool:
        return loop_of(loop) in LOOPS and loop != OWN_STREAMS

    def sample(self, loop: str, settings: Settings) -> Sample:
        options = ("--loop", loop_of(loop), "--rounds", str(CASE_ROUNDS))
        with pinned(settings.server_core):
            figures = numbers_of(
                self.module, self.case, *options, timeout=CASE_TIMEOUT, env=environment_of(loop)
            )
        return Sample(**figures)


def micro_rows(cases: Iterable[str]) -> list[ProcessRow]:
    return [
        ProcessRow("benchmarks.micro", case, micro.CASES[case].title, "micro") for case in cases
    ]


def tree_rows(variants: Iterable[str]) -> list[ProcessRow]:
    return [
        ProcessRow("benchmarks.trees", variant, f"{variant}: {trees.VARIANTS[variant]}", "trees")
        for variant in variants
    ]


def make_rows(
    groups: Iterable[str],
    sizes: Sequence[int] | None,
    connections: Sequence[int] | None,
    cases: Iterable[str],
    variants: Iterable[str] = trees.USUAL,
) -> tuple[list[Benchmark], list[str]]:
    """Return the rows of the groups, and notes on rows that can't be measured here."""
    rows: list[Benchmark] = []
    notes: list[str] = []
    for group in groups:
        if group in ECHO_GROUPS:
            rows += echo_rows(group, sizes, connections)
        elif group == "connect":
            rows += CONNECT_ROWS
        elif group == "micro":
            rows += micro_rows(cases)
        elif group == "trees":
            if find_spec(trees.PACKAGE):
                rows += tree_rows(variants)
            else:
                notes.append(f"The rows of async_tree were skipped: {trees.PACKAGE} is missing.")
        elif group in COMMANDS:
            continue
        elif program("wrk"):
            rows += [HttpRow(kind) for kind in HTTP_KINDS]
        else:
            notes.append("The HTTP rows were skipped: wrk is not installed (apt install wrk).")
    return rows, notes


def run_commands(groups: Iterable[str], loops: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Run the other commands among the groups; yield a heading and what they printed."""
    for command in (COMMANDS[group] for group in groups if group in COMMANDS):
        texts = [run_command(command.module, options, loops) for options in command.options]
        yield command.title, "\n".join(texts)


def run_command(module: str, options: Sequence[str], loops: Sequence[str]) -> str:
    command = [sys.executable, "-m", module, "--loops", ",".join(loops), *options]
    try:
        result = subprocess.run(
            command,
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return f"{module} was not done within {COMMAND_TIMEOUT:.0f} s.\n"
    if result.returncode:
        return f"{module} failed: {reason_of(result.stderr) or result.returncode}.\n"
    return result.stdout
