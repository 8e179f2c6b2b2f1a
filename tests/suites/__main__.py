"""Command line: run suites with both loops, print a table, fail on a difference."""

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

from . import compare, running
from .sources import Sources
from .table import SUITES, Suite

LIMIT = 1200.0
DETAIL_LINES = 12


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.suites",
        description="Run libraries' own test suites on hybridloop and on asyncio's loop. A test "
        "that passes on asyncio's loop has to pass on hybridloop.",
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(f".venv-suites-{sys.version_info.major}.{sys.version_info.minor}"),
        help="for the virtual environment and the sources (default: %(default)s)",
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="SUITE=FOLDER",
        help="take a suite, and the library, from this checkout instead of PyPI",
    )
    parser.add_argument("--loop", default="hybridloop:new_event_loop", metavar="MODULE:FACTORY")
    parser.add_argument("--tests", nargs="+", metavar="ID", help="only these tests")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="seconds for one suite and loop (%(default)g)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome here")
    options = parser.parse_args(arguments)
    options.given = {}
    for item in options.source:
        name, _, folder = item.partition("=")
        options.given[name] = Path(folder)
    if unknown := {*options.suites, *options.given} - SUITES.keys():
        parser.error(f"unknown suite: {', '.join(sorted(unknown))}")
    if missing := [folder for folder in options.given.values() if not folder.is_dir()]:
        parser.error(f"no such folder: {missing[0]}")
    return options


def select(options: argparse.Namespace) -> list[Suite]:
    selected = []
    for suite in SUITES.values():
        if options.suites and suite.name not in options.suites:
            continue
        if suite.without_tests and suite.name not in options.given:
            print(
                f"{suite.name} is left out: {suite.without_tests} (--source {suite.name}=FOLDER)",
                flush=True,
            )
            continue
        selected.append(suite)
    return selected


ROW = "{:12} {:9} {:>8} {:>7} {:>7} {:>8} {:>7} {:>7} {:>8} {:>6}"
HEAD = (
    ROW.format("", "", "asyncio:", "", "", "tested:", "", "", "", "")
    + "\n"
    + ROW.format(
        "suite", "version", "passed", "failed", "seconds", "passed", "failed", "seconds",
        "differ", "known",
    )
)  # fmt: skip


def row(suite: str, version: str, runs: dict[str, running.Run], found: compare.Comparison) -> str:
    cells: list[object] = []
    for run in runs.values():
        cells += [
            run.count("passed"),
            len(run.results) - run.count(*running.PASSING),
            f"{run.seconds:.0f}",
        ]
    return ROW.format(suite, version, *cells, len(found.problems), len(found.known))


def shorten(text: str) -> str:
    first, *detail = text.splitlines()
    return "\n    ".join([first, *detail[-DETAIL_LINES:]])


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    suites = select(options)
    known = compare.read()
    sources = Sources(options.folder)
    folders = sources.prepare(suites, options.given)
    rows, details, document = [], [], {}
    accepted = True
    for suite in suites:

        def run(loop: str, only: list[str] | None, suite: Suite = suite) -> running.Run:
            return running.run(
                suite,
                sources.python,
                folders[suite.name],
                loop,
                limit=options.limit,
                only=only,
            )

        runs = {}
        for name, loop in (("asyncio", ""), ("tested", options.loop)):
            print(f"Running {suite.name}: {name}", flush=True)
            runs[name] = run(loop, options.tests)
        found = compare.compare(
            suite.name,
            runs["asyncio"],
            runs["tested"],
            known,
            lambda ids, run=run: (run("", ids), run(options.loop, ids)),
            whole=not options.tests,
        )
        accepted = accepted and not found.problems
        rows.append(row(suite.name, sources.version(suite), runs, found))
        for title, items in (
            ("differs", found.problems),
            ("known difference", found.known),
            ("unsteady", found.unsteady),
            ("passes here only", found.gained),
        ):
            details += [f"{suite.name}: {title}: {shorten(item)}" for item in items]
        document[suite.name] = {name: asdict(run) for name, run in runs.items()}
    print("\n".join(["", *details, "", f"Python {platform.python_version()}", HEAD, *rows]))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return 0 if accepted else 1


if __name__ == "__main__":
    sys.exit(main())
