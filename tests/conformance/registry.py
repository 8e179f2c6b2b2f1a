"""The registry of outcomes other than a pass, and the judgement of a run by it."""

import platform
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from packaging.specifiers import SpecifierSet

from .modules import creates_loops
from .runner import PASSING, ModuleRun, Result

PATH = Path(__file__).with_name("expected_failures.toml")
SECTIONS = ("expected", "environment", "timed")
REPEATS = 3


@dataclass(frozen=True)
class Entry:
    """Tests, given by id or pattern, that share one reason not to pass."""

    section: str
    tests: tuple[str, ...]
    reason: str
    python: SpecifierSet
    not_in_every: bool

    def applies(self) -> bool:
        return self.python.contains(platform.python_version(), prereleases=True)

    def matches(self, test_id: str) -> bool:
        return any(fnmatchcase(test_id, pattern) for pattern in self.tests)


def read(path: Path = PATH) -> list[Entry]:
    """Read the registry; ValueError says what is wrong with it."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    if unknown := document.keys() - set(SECTIONS):
        raise ValueError(f"{path.name}: unknown section {', '.join(unknown)}")
    entries = []
    for section in SECTIONS:
        for table in document.get(section, []):
            entry = Entry(
                section,
                tuple(table.pop("tests", ())),
                table.pop("reason", "").strip(),
                SpecifierSet(table.pop("python", "")),
                table.pop("not_in_every", False),
            )
            if table or not entry.tests or not entry.reason:
                raise ValueError(f"{path.name}: an entry needs tests and a reason: {entry} {table}")
            entries.append(entry)
    return entries


@dataclass
class Verdict:
    """What of a module's run the registry does not account for."""

    module: str
    problems: list[str] = field(default_factory=list)
    expected: list[Result] = field(default_factory=list)
    environment: list[Result] = field(default_factory=list)
    timed: list[Result] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        return not self.problems


def judge(
    run: ModuleRun,
    entries: Iterable[Entry],
    run_control: Callable[[list[str]], ModuleRun],
    run_again: Callable[[list[str]], ModuleRun],
    *,
    whole: bool = True,
) -> Verdict:
    """Hold a run against the registry.

    ``run_control`` runs tests by id with asyncio's own loop: a failure of an environment entry is
    excused only where that loop fails too. ``run_again`` runs tests by id with the loop under test:
    a failure of a timed entry is excused only if the test passes then. ``whole`` says that the run
    covered all of the module.
    """
    verdict = Verdict(run.module)
    entries = [entry for entry in entries if entry.applies()]
    doubtful: list[Result] = []
    late: dict[str, Result] = {}
    for result in run.results.values():
        sections = {entry.section for entry in entries if entry.matches(result.id)}
        if result.outcome in PASSING:
            if "expected" in sections and result.outcome == "pass":
                verdict.problems.append(
                    f"{result.id}: unexpected pass; the registry is out of date"
                )
        elif "expected" in sections and result.outcome in ("fail", "error"):
            verdict.expected.append(result)
        elif "environment" in sections:
            doubtful.append(result)
        elif "timed" in sections and result.outcome in ("fail", "error"):
            late[result.id] = result
        else:
            verdict.problems.append(_describe(result))
        if result.stock:
            verdict.problems.append(f"{result.id}: created asyncio's own loop, not the one tested")

    if doubtful:
        control = run_control([result.id for result in doubtful]).results
        for result in doubtful:
            if result.id in control and control[result.id].outcome not in PASSING:
                verdict.environment.append(result)
            else:
                verdict.problems.append(
                    _describe(result) + "\nNot the environment: asyncio's own loop passes."
                )

    for _ in range(REPEATS):
        if late:
            for result in run_again(list(late)).results.values():
                if result.outcome == "pass" and result.id in late:
                    verdict.timed.append(late.pop(result.id))
    verdict.problems += [
        _describe(result) + f"\nNot the machine's load: it fails {REPEATS} times more."
        for result in late.values()
    ]

    if whole and not run.skipped:
        verdict.problems += _stale(run, entries)
        used = any(result.loops for result in run.results.values())
        if creates_loops(run.module) and not used:
            verdict.problems.append(f"{run.module}: no test created the loop under test")
    return verdict


def _stale(run: ModuleRun, entries: Iterable[Entry]) -> list[str]:
    return [
        f"{pattern}: the registry names a test that does not exist"
        for entry in entries
        for pattern in entry.tests
        if pattern.partition(".")[0] == run.module
        and not entry.not_in_every
        and not any(fnmatchcase(test_id, pattern) for test_id in run.results)
    ]


def _describe(result: Result) -> str:
    return f"{result.id}: {result.outcome}\n{result.detail}".rstrip()
