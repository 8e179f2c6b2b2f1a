"""Compares what loops cost, repeat by repeat."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.harness.results import Cells, Result, Row
from benchmarks.loops import BASELINE, IO_URING, LOOPS, SUBJECT

# A difference of the median below this is none, whatever the repeats say.
NOTHING = 0.01


@dataclass(frozen=True)
class Ratio:
    """The CPU time of one loop relative to another's: median, least and greatest of the repeats.

    The loops take turns within a repeat, so that a slow minute of the machine meets both.
    """

    median: float
    low: float
    high: float
    repeats: int

    @property
    def is_clear(self) -> bool:
        """Whether there are several repeats, and all say the same."""
        agree = self.repeats > 1 and (self.low > 1 or self.high < 1)
        return agree and abs(self.median - 1) >= NOTHING

    @property
    def verdict(self) -> str:
        if not self.is_clear:
            return "even"
        return "behind" if self.median > 1 else "ahead"


def ratio(own: Result | None, base: Result | None) -> Ratio | None:
    """Compare two results of one row; None if either has no samples."""
    if own is None or base is None or own.cpu() is None or not base.cpu():
        return None
    # As many repeats as both have, in the same order.
    pairs = zip(own.samples, base.samples, strict=False)
    factors = [mine.cpu_ns / other.cpu_ns for mine, other in pairs]
    return Ratio(statistics.median(factors), min(factors), max(factors), len(factors))


def peers(epoll_only: bool = False) -> list[str]:
    """Return the loops that the subject is compared with."""
    return [name for name in LOOPS if name != SUBJECT and not (epoll_only and name in IO_URING)]


def best(cells: Cells, names: Iterable[str]) -> str | None:
    """Return which of these loops costs least in a row; None if none of them has samples."""
    costs = {name: cells[name].cpu() for name in names if name in cells}
    known = {name: cost for name, cost in costs.items() if cost is not None}
    return min(known, key=known.__getitem__) if known else None


def against_best(cells: Cells, subject: str, names: Iterable[str]) -> tuple[str, Ratio] | None:
    """Return the best of these loops, and what the subject costs relative to it."""
    peer = best(cells, names)
    factor = ratio(cells.get(subject), cells.get(peer)) if peer else None
    return (peer, factor) if peer and factor else None


@dataclass(frozen=True)
class Summary:
    """How the subject fares in the rows of a group.

    Tuples hold the median over the rows, the least and the greatest.
    """

    rows: int
    baseline: tuple[float, float, float] | None
    epoll: tuple[float, float, float] | None
    verdicts: dict[str, int]
    worst: tuple[str, str, Ratio] | None


def over_rows(factors: list[float]) -> tuple[float, float, float] | None:
    return (statistics.median(factors), min(factors), max(factors)) if factors else None


def summarise(rows: dict[Row, dict[str, Result]], subject: str) -> Summary | None:
    """Sum up the rows in which the subject was measured; None if there are none."""
    measured = {row: cells for row, cells in rows.items() if subject in cells}
    if not measured:
        return None
    to_baseline = [ratio(cells[subject], cells.get(BASELINE)) for cells in measured.values()]
    to_epoll = [against_best(cells, subject, peers(epoll_only=True)) for cells in measured.values()]
    verdicts = dict.fromkeys(("ahead", "even", "behind"), 0)
    worst: tuple[str, str, Ratio] | None = None
    for row, cells in measured.items():
        found = against_best(cells, subject, peers())
        if found is None:
            continue
        peer, factor = found
        verdicts[factor.verdict] += 1
        if worst is None or factor.median > worst[2].median:
            worst = (row.title, peer, factor)
    return Summary(
        rows=len(measured),
        baseline=over_rows([factor.median for factor in to_baseline if factor]),
        epoll=over_rows([found[1].median for found in to_epoll if found]),
        verdicts=verdicts,
        worst=worst,
    )
