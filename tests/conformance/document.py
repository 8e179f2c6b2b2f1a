"""Writes docs/conformance.md from the outcomes that ``python -m tests.conformance --json`` keeps.

python3.13 -m tests.conformance --json 3.13.json --loop asyncio --loop uvloop --loop hybridloop
python -m tests.conformance.document 3.11.json 3.12.json 3.13.json
"""

import argparse
import json
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

from packaging.version import Version

from . import modules, registry, report
from .runner import PASSING

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"
LOOPS = ("asyncio", "uvloop", "hybridloop")
HEAD = """\
# CPython's asyncio tests

The results of CPython's own tests of asyncio (`test.test_asyncio`), with each loop as asyncio's
default loop. Tests are counted if they create a loop, or fail with one of the loops. "hang" is a
test that does not end, "crash" a test that ends its process. All loops run in the same runner,
`python -m tests.conformance`; `tests/conformance/document.py` writes this page from its results.

Some of the tests check private attributes, or mock parts, that only loops derived from asyncio's
have; such a failure of another loop does not affect its users.
"""

Runs = dict[str, dict[str, list[dict]]]


def read(paths: list[Path]) -> Runs:
    """The modules' runs, by version of Python and by loop, of all files together."""
    found: Runs = {}
    for path in paths:
        document = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(document["python"], {}).update(document["loops"])
    return dict(sorted(found.items(), key=lambda item: Version(item[0])))


def results(runs: list[dict]) -> list[dict]:
    return [result for run in runs for result in run["results"]]


def counted(by_loop: dict[str, list[dict]]) -> set[str]:
    """As in the runner's own table: what created a loop, or did not pass, with any of them."""
    return {
        result["id"]
        for runs in by_loop.values()
        for result in results(runs)
        if result["loops"] or result["outcome"] not in PASSING
    }


def totals(runs: Runs) -> str:
    lines = [
        "| Python | Loop | " + " | ".join(report.COLUMNS) + " |",
        "| --- | --- |" + " ---: |" * len(report.COLUMNS),
    ]
    for python, by_loop in runs.items():
        ids = counted(by_loop)
        for loop in LOOPS:
            if loop not in by_loop:
                continue
            tally = Counter(
                report.column(result["outcome"])
                for result in results(by_loop[loop])
                if result["id"] in ids
            )
            cells = " | ".join(str(tally[name]) for name in report.COLUMNS)
            lines.append(f"| {python} | {loop} | {cells} |")
    return "\n".join(lines)


def failures(runs: Runs, loop: str) -> dict[str, dict[str, str]]:
    """The tests that did not pass with a loop: id -> Python -> outcome."""
    found: dict[str, dict[str, str]] = {}
    for python, by_loop in runs.items():
        for result in results(by_loop.get(loop, [])):
            if result["outcome"] not in PASSING:
                found.setdefault(result["id"], {})[python] = report.column(result["outcome"])
    return found


def expected(runs: Runs, entries: list[registry.Entry]) -> str:
    """What fails on hybridloop, with the registry's reasons."""
    lines = []
    left = failures(runs, "hybridloop")
    for entry in entries:
        tests = {
            test_id: outcomes
            for test_id, outcomes in left.items()
            if any(fnmatchcase(test_id, pattern) for pattern in entry.tests)
        }
        reason = " ".join(entry.reason.split())
        if not tests:
            # Only other releases than those that ran have it.
            names = ", ".join(f"`{pattern}`" for pattern in entry.tests)
            lines.append(f"- {names} (in releases that have it): {reason}")
        for test_id, outcomes in tests.items():
            lines.append(f"- `{test_id}` ({', '.join(outcomes)}): {reason}")
        left = {test_id: outcomes for test_id, outcomes in left.items() if test_id not in tests}
    if left:
        raise SystemExit(f"not in the registry: {', '.join(left)}")
    return "\n".join(lines) or "Nothing."


def groups(runs: Runs, loop: str) -> str:
    """What fails on another loop: counts by class of tests."""
    pythons = list(runs)
    tally: dict[str, Counter[str]] = {}
    for test_id, outcomes in failures(runs, loop).items():
        group = test_id.rpartition(".")[0]
        tally.setdefault(group, Counter()).update(outcomes.keys())
    lines = [
        "| Tests | " + " | ".join(pythons) + " |",
        "| --- |" + " ---: |" * len(pythons),
    ]
    for group, counts in sorted(tally.items(), key=lambda item: (-item[1].total(), item[0])):
        cells = " | ".join(str(counts[python]) for python in pythons)
        lines.append(f"| `{group}` | {cells} |")
    return "\n".join(lines)


def left_out() -> str:
    return "\n".join(f"- `{name}`: {reason}" for name, reason in modules.LEFT_OUT.items())


def document(runs: Runs) -> str:
    parts = [
        HEAD,
        totals(runs),
        "\n## Failures on hybridloop\n",
        expected(runs, [entry for entry in registry.read() if entry.section == "expected"]),
        "\n## Failures on uvloop\n",
        groups(runs, "uvloop"),
        "\n## Modules that are not run\n",
        "These modules do not create asyncio's default loop, so they would test the same with "
        "every loop:\n",
        left_out(),
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.document")
    parser.add_argument("files", nargs="+", type=Path, help="written by the runner's --json")
    options = parser.parse_args()
    runs = read(options.files)
    for python, by_loop in runs.items():
        if missing := set(LOOPS) - by_loop.keys():
            raise SystemExit(f"Python {python}: no outcomes of {', '.join(sorted(missing))}")
    DOCUMENT.write_text(document(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
