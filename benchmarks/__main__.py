"""Compares event loops: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import floor, trees
from benchmarks.harness import missing, pages, reasons, store
from benchmarks.harness.arguments import choice_of, numbers
from benchmarks.harness.cpu import choose_cores
from benchmarks.harness.echo import CONNECTIONS, SIZES
from benchmarks.harness.environment import describe, load_note
from benchmarks.harness.process import Unavailable
from benchmarks.harness.report import Report
from benchmarks.harness.results import Benchmark, Result, Results, Settings
from benchmarks.harness.rows import GROUPS, SECTIONS, expand, make_rows, run_commands
from benchmarks.harness.tools import rust_binary
from benchmarks.loops import FLOOR, LIMIT, LOOPS, REFERENCES, installed, with_variants
from benchmarks.micro import CASES

QUICK_SIZES = [1024]
QUICK_CONNECTIONS = [10]
REPEATS = 5
QUICK_REPEATS = 2
SECONDS = 0.2
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def parse_arguments() -> argparse.Namespace:
    loops = [*LOOPS, *REFERENCES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare event loops in CPU time, rate and latency. Lists are comma-separated.",
    )
    add = parser.add_argument
    names = [*SECTIONS, *GROUPS]
    add("--rows", type=choice_of(names), default=["loops"], help=f"of {', '.join(names)}")
    add("--loops", type=choice_of(loops), default=loops, help=f"of {', '.join(loops)}")
    add("--sizes", type=numbers, help="echo: bytes per message; default: the group's own")
    add("--conns", type=numbers, help="echo: connections; default: the group's own")
    add("--wide", action="store_true", help="four sizes, three numbers of connections, all trees")
    add("--cases", type=choice_of(CASES), default=list(CASES), help="micro-benchmarks")
    add("--repeats", type=int, help=f"samples per loop and row; default: {REPEATS}")
    add("--seconds", type=float, default=SECONDS, help="window of an echo or HTTP sample")
    add("--quick", action="store_true", help="a first impression in a few minutes")
    add(
        "--safe",
        action=argparse.BooleanOptionalAction,
        help="a column of hybridloop with HYBRIDLOOP_SAFE=1; default: unless quick",
    )
    add(
        "--folder",
        type=Path,
        help="for the page, its charts and every sample; default: docs/benchmarks, none if quick",
    )
    add(
        "--render",
        action="store_true",
        help="measure nothing; write the pages of the stored runs and the overview again",
    )
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.rows = expand(arguments.rows)
    if arguments.wide:
        arguments.sizes = arguments.sizes or SIZES
        arguments.conns = arguments.conns or CONNECTIONS
    elif quick:
        arguments.sizes = arguments.sizes or QUICK_SIZES
        arguments.conns = arguments.conns or QUICK_CONNECTIONS
    arguments.repeats = arguments.repeats or (QUICK_REPEATS if quick else REPEATS)
    if arguments.safe is None:
        arguments.safe = not quick
    arguments.folder = arguments.folder or (None if quick else store.FOLDER)
    return arguments


def prepare(names: Sequence[str], safe: bool) -> tuple[list[str], list[str]]:
    """Return the columns that can be measured here, and notes on loops that can't."""
    usable, absent = installed([name for name in names if name in LOOPS])
    notes = [
        f"{name} is left out, {missing.reason(LOOPS[name])} ({error})"
        for name, error in absent.items()
    ]
    if FLOOR in names:
        floor.build()
    if LIMIT in names:
        rust_binary("epoll-echo")
    return [*with_variants(usable, safe), *(name for name in names if name in REFERENCES)], notes


def measure(
    rows: Sequence[Benchmark], loops: Sequence[str], repeats: int, settings: Settings
) -> Results:
    """Take all samples; within a row the loops take turns, each time in another order."""
    columns = {row: [loop for loop in loops if row.runs_on(loop)] for row in rows}
    warm_up(columns, settings)
    total = repeats * sum(map(len, columns.values()))
    done = 0
    begin = time.monotonic()
    results: Results = {}
    for row, order in columns.items():
        cells = results[row] = {loop: Result() for loop in order}
        for repeat in range(repeats):
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


def warm_up(columns: Mapping[Benchmark, Sequence[str]], settings: Settings) -> None:
    """Take a sample with each loop that does not count: it brings programs into the page cache."""
    first = {loop: row for row, loops in reversed(list(columns.items())) for loop in loops}
    for loop, row in first.items():
        with suppress(Unavailable):  # the row will say so
            row.sample(loop, settings)


def progress(what: str, outcome: str) -> None:
    print(f"{what}: {outcome}", file=sys.stderr, flush=True)


def main() -> None:
    if not hasattr(os, "sched_setaffinity"):
        sys.exit("the benchmarks need Linux")
    arguments = parse_arguments()
    if arguments.render:
        pages.render_all()
        return
    load = load_note()
    loops, notes = prepare(arguments.loops, arguments.safe)
    notes += [load] if load else []
    variants = list(trees.VARIANTS) if arguments.wide else trees.USUAL
    rows, more_notes = make_rows(
        arguments.rows, arguments.sizes, arguments.conns, arguments.cases, variants
    )
    notes += more_notes
    server_core, client_core = choose_cores()
    if server_core == client_core:
        notes.append("Server and client shared the only core: rates and latencies mean little.")
    for note in notes:
        print(note, file=sys.stderr)
    settings = Settings(server_core, client_core, arguments.seconds)
    environment = describe([name for name in loops if name in LOOPS])
    results = measure(rows, loops, arguments.repeats, settings)
    sections = list(run_commands(arguments.rows, [name for name in loops if name in LOOPS]))
    report = Report(
        results=results,
        settings=settings,
        repeats=arguments.repeats,
        environment=environment,
        notes=notes,
        sections=sections,
        python=PYTHON,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        reasons=reasons.read(),
    )
    if arguments.folder is None:
        print(report.markdown())
        return
    path = arguments.folder / f"{PYTHON}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    store.save(report, path)
    if arguments.folder.resolve() == store.FOLDER:
        pages.render_all()
    else:
        pages.render(path)


if __name__ == "__main__":
    main()
