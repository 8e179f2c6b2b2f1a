"""Holds the results of a suite with the two loops against each other."""

import sys
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from .running import PASSING, Result, Run

PATH = Path(__file__).with_name("known_differences.toml")
AGAIN = 3

# Runs some tests again, on asyncio's loop and on the one under test.
RunAgain = Callable[[list[str]], tuple[Run, Run]]


@dataclass(frozen=True)
class Known:
    """Tests of a suite that differ for one reason."""

    suite: str
    tests: tuple[str, ...]
    reason: str
    python: tuple[str, ...] = ()

    def applies(self, suite: str) -> bool:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return self.suite == suite and (not self.python or version in self.python)

    def matches(self, test: str) -> bool:
        return any(_matches(test, pattern) for pattern in self.tests)


def _matches(test: str, pattern: str) -> bool:
    # The brackets of a parametrized test's id are no character class.
    return fnmatchcase(test, pattern.replace("[", "[[]"))


def read(path: Path = PATH) -> list[Known]:
    """Read the list of known differences; ValueError says what is wrong with it."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    if unknown := document.keys() - {"difference"}:
        raise ValueError(f"{path.name}: unknown section {', '.join(unknown)}")
    entries = []
    for table in document.get("difference", []):
        entry = Known(
            table.pop("suite", ""),
            tuple(table.pop("tests", ())),
            table.pop("reason", "").strip(),
            tuple(table.pop("python", ())),
        )
        if table or not entry.suite or not entry.tests or not entry.reason:
            raise ValueError(
                f"{path.name}: an entry needs a suite, tests and a reason: {entry} {table}"
            )
        entries.append(entry)
    return entries


@dataclass
class Comparison:
    """What came of comparing one suite."""

    problems: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    unsteady: list[str] = field(default_factory=list)
    # Tests that pass with the loop under test and not with asyncio's.
    gained: list[str] = field(default_factory=list)


def differs(control: Result | None, tested: Result | None) -> bool:
    """Whether a test does worse than with asyncio's loop."""
    if control is None or control.outcome not in PASSING:
        return False
    if tested is None or tested.outcome not in PASSING:
        return True
    return control.outcome == "passed" != tested.outcome


def compare(
    suite: str,
    control: Run,
    tested: Run,
    entries: Iterable[Known],
    run_again: RunAgain,
    *,
    whole: bool = True,
) -> Comparison:
    """Compare two runs of a suite.

    A test that differs is run again, :data:`AGAIN` times; one that passes then is unsteady.
    """
    comparison = Comparison()
    entries = [entry for entry in entries if entry.applies(suite)]
    for name, run in (("asyncio", control), ("the loop under test", tested)):
        if run.broken:
            comparison.problems.append(f"the run with {name} is incomplete: {run.broken}")
    if not any(result.loops for result in tested.results.values()):
        comparison.problems.append("no test created the loop under test")

    doubtful: dict[str, tuple[Result, Result]] = {}
    for test in sorted(control.results.keys() | tested.results.keys()):
        ours, theirs = tested.results.get(test), control.results.get(test)
        known = any(entry.matches(test) for entry in entries)
        if ours is not None and ours.stock:
            comparison.problems.append(f"{test}: created asyncio's own loop, not the one tested")
        if differs(theirs, ours):
            if known:
                comparison.known.append(test)
            else:
                doubtful[test] = (ours or Result("not run"), theirs)
        elif known and ours is not None and ours.outcome == "passed":
            comparison.problems.append(f"{test}: passes; the known differences are out of date")
        elif ours and ours.outcome == "passed" and theirs and theirs.outcome not in PASSING:
            comparison.gained.append(test)

    for entry in entries if whole else ():
        for pattern in entry.tests:
            if not any(_matches(test, pattern) for test in control.results):
                comparison.problems.append(f"{pattern}: there is no such test")
    _settle(doubtful, comparison, run_again)
    return comparison


def _settle(
    doubtful: dict[str, tuple[Result, Result]], comparison: Comparison, run_again: RunAgain
) -> None:
    """Separate the tests that always do worse from those that sometimes do."""
    if not doubtful:
        return
    worse = {test: [1, 0] for test in doubtful}
    for _ in range(AGAIN):
        for column, run in enumerate(reversed(run_again(list(doubtful)))):
            for test, (_, theirs) in doubtful.items():
                result = run.results.get(test)
                # That a test is not found must not excuse its failure.
                worse[test][column] += differs(theirs, result or (None, theirs)[column])
    for test, (ours, _) in doubtful.items():
        tested, control = worse[test]
        if tested == AGAIN + 1 and control < AGAIN:
            comparison.problems.append(f"{test}: {ours.outcome}\n{ours.detail}".rstrip())
        else:
            comparison.unsteady.append(
                f"{test}: fails {tested} of {AGAIN + 1} times, "
                f"with asyncio {control} of {AGAIN + 1}"
            )
