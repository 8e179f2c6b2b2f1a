"""Text for people: the summary of a run and the Markdown table of several."""

from collections import Counter
from collections.abc import Iterable, Mapping

from .registry import Verdict
from .runner import PASSING, ModuleRun

DETAIL_LINES = 12
COLUMNS = ("pass", "fail", "hang", "crash", "skip")


def column(outcome: str) -> str:
    return "fail" if outcome == "error" else outcome


def counts(run: ModuleRun, only: set[str] | None = None) -> Counter[str]:
    return Counter(
        column(result.outcome)
        for result in run.results.values()
        if only is None or result.id in only
    )


def show(tally: Mapping[str, int]) -> str:
    return ", ".join(f"{tally[name]} {name}" for name in COLUMNS if tally.get(name)) or "none"


def summary_line(run: ModuleRun) -> str:
    if run.skipped:
        return f"{run.module:26} skipped: {run.skipped}"
    used = sum(result.loops > 0 for result in run.results.values())
    created = sum(result.loops for result in run.results.values())
    return (
        f"{run.module:26} {run.seconds:5.1f} s  {show(counts(run))}; "
        f"{used} of {len(run.results)} tests created {created} loops under test"
    )


def tail(text: str, lines: int = DETAIL_LINES) -> str:
    kept = text.splitlines()
    if len(kept) > lines:
        kept = [kept[0], "…", *kept[-lines:]]
    return "\n    ".join(kept)


def summary(runs: Iterable[ModuleRun], verdicts: Iterable[Verdict]) -> str:
    runs, verdicts = list(runs), list(verdicts)
    lines = [summary_line(run) for run in runs]
    total: Counter[str] = Counter()
    for run in runs:
        total += counts(run)
    problems = [problem for verdict in verdicts for problem in verdict.problems]
    lines += ["", f"Total: {show(total)}"]
    lines += [
        f"Expected: {result.id} ({result.outcome})"
        for verdict in verdicts
        for result in verdict.expected
    ]
    lines += [
        f"Environment: {result.id} ({result.outcome}; asyncio's own loop does not pass here either)"
        for verdict in verdicts
        for result in verdict.environment
    ]
    lines += [
        f"Timed: {result.id} ({result.outcome}; it has limits of time, and passes when run again)"
        for verdict in verdicts
        for result in verdict.timed
    ]
    lines += [f"\nUnexpected: {tail(problem)}" for problem in problems]
    lines += ["", f"{len(problems)} unexpected" if problems else "Nothing unexpected"]
    return "\n".join(lines)


def table(runs_by_loop: Mapping[str, list[ModuleRun]]) -> str:
    """Counts per module and loop, of the tests that create the loop under test.

    A test counts if it created a loop, or did not pass, with any of the loops.
    """
    counted = {
        result.id
        for runs in runs_by_loop.values()
        for run in runs
        for result in run.results.values()
        if result.loops or result.outcome not in PASSING
    }
    rows = ["| Module | Loop | " + " | ".join(COLUMNS) + " |"]
    rows.append("| --- | --- |" + " ---: |" * len(COLUMNS))
    totals: dict[str, Counter[str]] = {loop: Counter() for loop in runs_by_loop}
    modules = list(dict.fromkeys(run.module for runs in runs_by_loop.values() for run in runs))
    for module in modules:
        for loop, runs in runs_by_loop.items():
            for run in runs:
                if run.module == module and not run.skipped:
                    tally = counts(run, counted)
                    totals[loop] += tally
                    rows.append(_row(module, loop, tally))
    rows += [_row("**all**", loop, tally) for loop, tally in totals.items()]
    return "\n".join(rows)


def _row(module: str, loop: str, tally: Mapping[str, int]) -> str:
    cells = " | ".join(str(tally.get(name, 0)) for name in COLUMNS)
    return f"| {module} | {loop} | {cells} |"
