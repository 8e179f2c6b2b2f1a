"""Compares event loops: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks import floor
from benchmarks.harness.arguments import choice_of, numbers
from benchmarks.harness.cpu import choose_cores
from benchmarks.harness.echo import CONNECTIONS, SIZES
from benchmarks.harness.environment import describe
from benchmarks.harness.process import ROOT, Unavailable
from benchmarks.harness.report import Report
from benchmarks.harness.results import Result, Results, Row, Settings
from benchmarks.harness.rows import GROUPS, SECTIONS, expand, make_rows, run_commands
from benchmarks.harness.tools import rust_binary
from benchmarks.loops import FLOOR, LIMIT, LOOPS, REFERENCES, installed, with_variants
from benchmarks.micro import CASES

QUICK_SIZES = [1024]
QUICK_CONNECTIONS = [10]
OUT = ROOT / "docs" / "benchmarks.md"


def parse_arguments() -> argparse.Namespace:
    loops = [*LOOPS, *REFERENCES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare event loops in CPU time, rate and latency. Lists are comma-separated.",
    )
    add = parser.add_argument
    names = [*SECTIONS, *GROUPS]
    add("--rows", type=choice_of(names), default=GROUPS, help=f"of {', '.join(names)}")
    add("--loops", type=choice_of(loops), default=loops, help=f"of {', '.join(loops)}")
    add("--sizes", type=numbers, help="echo: bytes per message; default: the group's own")
    add("--conns", type=numbers, help="echo: connections; default: the group's own")
    add("--wide", action="store_true", help="echo: four sizes, three numbers of connections")
    add("--cases", type=choice_of(CASES), default=list(CASES), help="micro-benchmarks")
    add("--repeats", type=int, help="samples per loop and row; default: 3")
    add("--seconds", type=float, help="window of an echo or HTTP sample; default: 0.3 s")
    add("--quick", action="store_true", help="a first impression in a few minutes")
    add("--out", type=Path, help=f"Markdown file; default: {OUT.relative_to(ROOT)}, none if quick")
    add("--json", type=Path, help="file for every sample")
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.rows = expand(arguments.rows)
    if arguments.wide:
        arguments.sizes = arguments.sizes or SIZES
        arguments.conns = arguments.conns or CONNECTIONS
    elif quick:
        arguments.sizes = arguments.sizes or QUICK_SIZES
        arguments.conns = arguments.conns or QUICK_CONNECTIONS
    arguments.repeats = arguments.repeats or (2 if quick else 3)
    arguments.seconds = arguments.seconds or 0.3
    arguments.out = arguments.out or (None if quick else OUT)
    return arguments


def prepare(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the loops that can run here, and notes on those that can't."""
    usable, missing = installed([name for name in names if name in LOOPS])
    notes = [f"{name} was skipped: {reason}" for name, reason in missing.items()]
    if FLOOR in names:
        floor.build()
    if LIMIT in names:
        rust_binary("epoll-echo")
    return [*with_variants(usable), *(name for name in names if name in REFERENCES)], notes


def measure(rows: Sequence[Row], loops: Sequence[str], repeats: int, settings: Settings) -> Results:
    """Take all samples; within a row the loops take turns, each time in another order."""
    results: Results = {
        row: {loop: Result() for loop in loops if row.runs_on(loop)} for row in rows
    }
    warm_up(results, settings)
    total = repeats * sum(map(len, results.values()))
    done = 0
    begin = time.monotonic()
    for row, cells in results.items():
        for repeat in range(repeats):
            order = list(cells)
            shift = repeat % len(order) if order else 0
            for loop in order[shift:] + order[:shift]:
                done += 1
                result = cells[loop]
                if result.failure is not None:
                    continue
                try:
                    sample = row.sample(loop, settings)
                except Unavailable as error:
                    result.failure = str(error)
                    outcome = f"n/a: {error}"
                else:
                    result.samples.append(sample)
                    outcome = f"{sample.cpu_ns:,.0f} ns"
                elapsed = time.monotonic() - begin
                progress(
                    f"[{done}/{total} {elapsed:.0f}s] {row.group}, {row.title}: {loop}", outcome
                )
    return results


def warm_up(results: Results, settings: Settings) -> None:
    """Take a sample with each loop that does not count: it brings programs into the page cache."""
    first = {loop: row for row, cells in reversed(results.items()) for loop in cells}
    for loop, row in first.items():
        with suppress(Unavailable):  # the row will say so
            row.sample(loop, settings)


def progress(what: str, outcome: str) -> None:
    print(f"{what}: {outcome}", file=sys.stderr, flush=True)


def main() -> None:
    if not hasattr(os, "sched_setaffinity"):
        sys.exit("the benchmarks need Linux")
    arguments = parse_arguments()
    loops, notes = prepare(arguments.loops)
    rows, more_notes = make_rows(arguments.rows, arguments.sizes, arguments.conns, arguments.cases)
    notes += more_notes
    server_core, client_core = choose_cores()
    if server_core == client_core:
        notes.append("Server and client shared the only core: rates and latencies mean little.")
    for note in notes:
        print(note, file=sys.stderr)
    settings = Settings(
        server_core, client_core, arguments.seconds, micro_rounds=1 if arguments.quick else 3
    )
    environment = describe([name for name in loops if name in LOOPS])
    results = measure(rows, loops, arguments.repeats, settings)
    sections = list(run_commands(arguments.rows, [name for name in loops if name in LOOPS]))
    report = Report(results, settings, arguments.repeats, environment, notes, sections)
    text = report.markdown()
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text, encoding="utf-8")
    else:
        print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")


if __name__ == "__main__":
    main()
