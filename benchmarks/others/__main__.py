"""Run other projects' own benchmarks, unmodified, with hybridloop in the place of their loop.

python -m benchmarks.others                                    # those that pip brings
python -m benchmarks.others --source zuvloop=../zuvloop zuvloop

Their files are fetched by pip, taken from an installed package, or from a checkout (--source).
Each case runs on asyncio, on the project's loop and on hybridloop.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.harness import pages
from benchmarks.harness.environment import describe, load_note, package_version
from benchmarks.harness.process import ROOT, Unavailable
from benchmarks.harness.store import OTHERS
from benchmarks.harness.tables import NONE, table
from benchmarks.loops import LOOPS, SUBJECT, installed
from benchmarks.others import sources
from benchmarks.others.projects import CONTROL, PROJECTS, Pass, Project

ROUNDS = 3
METHOD = """\
The projects' files run unmodified; a module of the project's name in front of the path gives them \
hybridloop for their own loop, and for pyperformance a `sitecustomize` module puts the loop in \
asyncio's place. Each case runs {rounds} times on the project's loop and on hybridloop in turn, \
each time beside asyncio, which is the control. A figure is the median; in parentheses, how fast \
the loop is compared with asyncio: the median of the ratios of the rounds, above 1 it is faster."""

HOW = """\
Run them with `python -m benchmarks.others`; [benchmarks/README.md](../../benchmarks/README.md) \
says how."""


@dataclass
class Case:
    """The passes of one case, by loop, or why a loop has none."""

    passes: dict[str, list[Pass]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, loop: str) -> float | None:
        if loop == CONTROL:
            values = [found.control for each in self.passes.values() for found in each]
        else:
            values = [found.tested for found in self.passes.get(loop, ())]
        return statistics.median(values) if values else None

    def speed(self, loop: str, is_rate: bool) -> float | None:
        """Return how fast a loop is compared with the control, by the ratios of its passes."""
        factors = [found.tested / found.control for found in self.passes.get(loop, ())]
        if not factors:
            return None
        factor = statistics.median(factors)
        return factor if is_rate else 1 / factor


def measure(project: Project, folder: Path, rounds: int) -> dict[str, Case]:
    """Run all cases; the loops take turns."""
    loops = [project.own, SUBJECT]
    found = {}
    for name in project.cases:
        case = found[name] = Case({loop: [] for loop in loops})
        for turn in range(rounds):
            for loop in loops if turn % 2 else reversed(loops):
                if loop in case.failures:
                    continue
                try:
                    one = project.run(folder, name, project.own, loop)
                except Unavailable as error:
                    case.failures[loop] = str(error)
                    print(f"{project.name}, {name}: {loop}: {error}", file=sys.stderr, flush=True)
                    continue
                case.passes[loop].append(one)
                line = f"{project.name}, {name}: {loop}: {one.tested:,.4g} ({one.control:,.4g})"
                print(line, file=sys.stderr, flush=True)
    return found


def figure(value: float | None, is_rate: bool) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if is_rate else f"{value * 1e3:,.1f}"


def cell(case: Case, loop: str, is_rate: bool) -> str:
    speed = case.speed(loop, is_rate)
    if speed is None:
        return f"{NONE} ({case.failures.get(loop, 'not run')})"
    return f"{figure(case.median(loop), is_rate)} ({speed:.2f})"


def project_table(project: Project, found: Mapping[str, Case]) -> Iterator[str]:
    rate = project.is_rate
    body = []
    for name, case in found.items():
        speeds = [case.speed(loop, rate) for loop in (SUBJECT, project.own)]
        ours, theirs = speeds
        between = f"{ours / theirs:.2f}" if ours and theirs else NONE
        cells = [cell(case, loop, rate) for loop in (project.own, SUBJECT)]
        body.append([name, figure(case.median(CONTROL), rate), *cells, between])
    head = [project.unit, CONTROL, project.own, SUBJECT, f"{SUBJECT} / {project.own}"]
    yield from table(head, body)


def page(
    results: Mapping[str, Mapping[str, Case]],
    left_out: Mapping[str, str],
    rounds: int,
    environment: Mapping[str, str],
    date: str,
) -> str:
    """Return the tables as a page."""
    lines = [f"# {pages.OTHERS_TITLE}\n", METHOD.format(rounds=rounds), ""]
    lines += [f"- {name}: {value}" for name, value in environment.items()]
    lines += [f"- Date: {date}"]
    lines += [f"- {name} is left out: {reason}" for name, reason in left_out.items()]
    lines += ["", HOW]
    for name, found in results.items():
        lines += [f"\n## {name}\n", *project_table(PROJECTS[name], found)]
    return "\n".join(lines) + "\n"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.others",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("projects", nargs="*", metavar="PROJECT", help=", ".join(PROJECTS))
    add(
        "--source",
        action="append",
        default=[],
        metavar="PROJECT=FOLDER",
        help="take a project's benchmarks from this checkout",
    )
    add("--rounds", type=int, default=ROUNDS, help="of each case (%(default)d)")
    add(
        "--folder",
        type=Path,
        default=ROOT / ".venv-bench-others",
        help="for what is fetched (default: %(default)s)",
    )
    add("--out", type=Path, help=f"Markdown file, such as {OTHERS.relative_to(ROOT)}; else printed")
    options = parser.parse_args(arguments)
    options.given = {}
    for item in options.source:
        name, _, folder = item.partition("=")
        options.given[name] = Path(folder).absolute()
    if unknown := {*options.projects, *options.given} - PROJECTS.keys():
        parser.error(f"unknown project: {', '.join(sorted(unknown))}")
    if missing := [folder for folder in options.given.values() if not folder.is_dir()]:
        parser.error(f"no such folder: {missing[0]}")
    return options


def find(project: Project, given: Mapping[str, Path], folder: Path) -> Path:
    """Return the folder of a project's files; Unfound with the reason if there is none."""
    _, absent = installed([project.own])
    if absent:
        raise sources.Unfound(f"{project.own} is not installed ({absent[project.own]})")
    if lacks := project.lacks():
        raise sources.Unfound(f"pip install {' '.join(lacks)}")
    if project.name in given:
        return sources.from_checkout(project.name, project.part, given[project.name])
    if project.packaged:
        return sources.from_package(project.name, project.part)
    return sources.from_archive(project.name, project.part, folder)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    load = load_note()
    results: dict[str, dict[str, Case]] = {}
    left_out: dict[str, str] = {}
    for name in options.projects or PROJECTS:
        project = PROJECTS[name]
        try:
            folder = find(project, options.given, options.folder.absolute())
        except sources.Unfound as error:
            left_out[name] = str(error)
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        results[name] = measure(project, folder, options.rounds)
    loops, _ = installed([loop for loop in LOOPS if loop != "blazio"])
    environment = describe(loops)
    del environment["Servers"]
    environment["pyperformance"] = package_version("pyperformance") or NONE
    if load:
        environment["Note"] = load
    text = page(results, left_out, options.rounds, environment, f"{datetime.now(UTC):%Y-%m-%d}")
    if options.out:
        options.out.write_text(text, encoding="utf-8")
        if options.out.resolve() == OTHERS:
            pages.render_all()
    else:
        print(text)


if __name__ == "__main__":
    main()
