"""Renders a group of rows as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.harness.compare import against_best, peers, ratio
from benchmarks.harness.results import Cells, Result, Results
from benchmarks.loops import BASELINE, FLOOR, SAFE, SUBJECT, SUBJECTS, columns

NONE = "\N{EN DASH}"
WIDE_SPREAD = 0.15
WIDE_MARK = "~"

PER = {"http": "request", "micro": "operation", "connect": "connection", "trees": "tree"}

# Group → how many nanoseconds are one, digits, name of the unit; others are in microseconds.
UNITS = {"micro": (1.0, 0, "ns"), "trees": (1e6, 0, "ms")}


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'--:|' * (len(head) - 1)}"
    yield from (f"| {' | '.join(cells)} |" for cells in body)


def measured_columns(rows: Results) -> list[str]:
    return columns(loop for cells in rows.values() for loop in cells)


def factor_text(factor: float | None) -> str:
    return NONE if factor is None else f"{factor:.2f}"


class CpuTable:
    """CPU time by row and loop, and what the subject costs relative to others."""

    def __init__(self, group: str, rows: Results):
        self.group = group
        self.rows = rows
        self.loops = measured_columns(rows)
        self.scale, self.digits, unit = UNITS.get(group, (1e3, 2, "µs"))
        self.caption = f"CPU time per {PER.get(group, 'message')}, {unit}:"
        self.footnotes: list[str] = []
        self.comparisons = [
            (subject, other)
            for subject in SUBJECTS
            if subject in self.loops
            for other in (BASELINE, "best peer", FLOOR)
            if other != FLOOR or FLOOR in self.loops
        ]
        if SAFE in self.loops and SUBJECT in self.loops:
            self.comparisons.append((SAFE, SUBJECT))

    def lines(self) -> Iterator[str]:
        head = ["", *self.loops, *(f"{subject} / {other}" for subject, other in self.comparisons)]
        body = [
            [
                row.title,
                *(self.cell(cells, loop) for loop in self.loops),
                *(self.comparison(cells, *pair) for pair in self.comparisons),
            ]
            for row, cells in self.rows.items()
        ]
        yield f"{self.caption}\n"
        yield from table(head, body)
        if self.footnotes:
            yield ""
            yield from (f"[{number}] {note}  " for number, note in enumerate(self.footnotes, 1))

    def cell(self, cells: Cells, loop: str) -> str:
        result = cells.get(loop)
        if result is None:
            return NONE
        cost = result.cpu()
        if cost is None:
            return f"{NONE} [{self.footnote(f'{loop}: {result.failure}')}]"
        figures = [f"{value / self.scale:,.{self.digits}f}" for value in (cost, *result.range())]
        text = f"{figures[0]} ({figures[1]}..{figures[2]})"
        if result.spread() > WIDE_SPREAD:
            text += f" {WIDE_MARK}"
        relative = ratio(result, cells.get(BASELINE))
        return text if loop == BASELINE or relative is None else f"{text} {relative.median:.2f}x"

    def footnote(self, note: str) -> int:
        if note not in self.footnotes:
            self.footnotes.append(note)
        return self.footnotes.index(note) + 1

    @staticmethod
    def comparison(cells: Cells, subject: str, other: str) -> str:
        if other == "best peer":
            found = against_best(cells, subject, peers())
            return f"{found[1].median:.2f} ({found[0]})" if found else NONE
        factor = ratio(cells.get(subject), cells.get(other))
        return factor_text(factor.median if factor else None)


def rate_table(rows: Results, observer: str) -> Iterator[str]:
    def latency(value: float | None) -> str:
        return NONE if value is None else f"{value:,.0f}"

    def cell(result: Result | None) -> str:
        if result is None:
            return NONE
        texts = []
        if (rate := result.median("per_second")) is not None:
            low, high = result.range("per_second")
            texts.append(f"{rate:,.0f} ({low:,.0f}..{high:,.0f})")
        if (median := result.median("p50_us")) is not None:
            texts.append(f"{latency(median)} / {latency(result.median('p99_us'))}")
        return "; ".join(texts) or NONE

    loops = measured_columns(rows)
    rows = {
        row: cells
        for row, cells in rows.items()
        if any(cell(result) != NONE for result in cells.values())
    }
    if not rows:
        return
    yield f"\nSeen by the {observer}: rate per second; latency p50 / p99, µs:\n"
    yield from table(
        ["", *loops],
        [[row.title, *(cell(cells.get(loop)) for loop in loops)] for row, cells in rows.items()],
    )


def per_cpu_second_table(rows: Results) -> Iterator[str]:
    def cell(result: Result | None) -> str:
        cost = result.cpu() if result else None
        return f"{1e9 / cost:,.0f}" if cost else NONE

    loops = measured_columns(rows)
    yield "\nConnections per second of the server's CPU time:\n"
    yield from table(
        ["", *loops],
        [[row.title, *(cell(cells.get(loop)) for loop in loops)] for row, cells in rows.items()],
    )


def group_lines(group: str, rows: Results) -> Iterator[str]:
    """Return the tables of a group."""
    yield from CpuTable(group, rows).lines()
    if group == "connect":
        yield from per_cpu_second_table(rows)
    yield from rate_table(rows, "clock" if group in UNITS else "client")
