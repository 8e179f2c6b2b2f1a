"""Renders results as Markdown and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from benchmarks.harness.compare import Ratio, against_best, peers, summarise
from benchmarks.harness.echo import LARGE, LARGE_WARMUP, WARMUP, format_size
from benchmarks.harness.results import Result, Results, Settings
from benchmarks.harness.rows import TITLES
from benchmarks.harness.tables import NONE, WIDE_MARK, WIDE_SPREAD, group_lines, table
from benchmarks.loops import (
    BASELINE,
    FLOOR,
    IO_URING,
    LIMIT,
    OWN_STREAMS,
    REFERENCES,
    SUBJECT,
    SUBJECTS,
)

METHOD = """\
**CPU time** is the main figure: user and system together, of all threads of the server (or of \
the micro-benchmark's process), divided by the messages, requests, connections or operations of \
the measured window. It is read from the scheduler's nanosecond counters and is disturbed less \
by other work on the machine than a rate is. Children are not counted.

Every sample starts a fresh server and a fresh client, pinned to a core each. Within a row the \
loops take turns, {repeats} times, each time in another order, so that drift of the machine meets \
all of them. A cell shows the median of its samples, and in parentheses the least and the \
greatest; {mark} marks a cell in which these lie more than {wide:.0%} of the median apart. A ratio \
is the median of the ratios of the single repeats; below 1, {subject} costs less. It is *even* \
unless all repeats agree on who costs less and the median differs by 1 % at least.

Echo servers get {warmup:,} messages of warm-up ({large_warmup} from {large} on), then a window of \
{seconds:g} s; the load generator keeps one message per connection under way and compares every \
byte that comes back. TLS connections use version 1.3 with an ECDSA P-256 certificate, and the \
client resumes no session. HTTP rows are driven by wrk, for at least a second after a second of \
warm-up. Each server first frees one large block, as most programs have done before they serve: \
until then glibc maps every 256 KiB read buffer anew, which multiplies the cost of loops that \
make one per read. With one connection, most of the time is the kernel's for sleeping and waking.

`{floor}` is {floor_text}, with one recv, one call into Python and one send per message and \
nothing else; a loop gets below it only by saving system calls. `{limit}` is {limit_text}: what \
the kernel, and TLS, cost alone. `{own_streams}` are {subject}'s own streams \
(`hybridloop.start_server()`) beside asyncio's on the loops. {ring} waits by io_uring where the \
kernel has it, the others by epoll. {none} is a row that a loop can't do, with the reason below \
the table. How to run this: `benchmarks/README.md`."""


@dataclass(frozen=True)
class Report:
    """Everything that a run has found."""

    results: Results
    settings: Settings
    repeats: int
    environment: dict[str, str]
    notes: Sequence[str]
    # Tables of other tools, rendered: heading and text.
    sections: Sequence[tuple[str, str]] = ()

    def markdown(self) -> str:
        return "\n".join(self.lines()) + "\n"

    def lines(self) -> Iterator[str]:
        yield "# Benchmarks\n"
        if any(SUBJECT in cells for cells in self.results.values()):
            yield from summary(self.results)
            yield from losses(self.results)
        yield "\n## Method\n"
        yield self.method()
        yield ""
        yield from (f"- {name}: {value}" for name, value in self.environment.items())
        yield f"- Date: {datetime.now(UTC):%Y-%m-%d}"
        yield from (f"- {note}" for note in self.notes)
        for group, rows in by_group(self.results).items():
            yield f"\n## {TITLES[group]}\n"
            yield from group_lines(group, rows)
        for heading, text in self.sections:
            yield f"\n## {heading}\n\n{text.strip()}"

    def method(self) -> str:
        return METHOD.format(
            subject=SUBJECT,
            repeats=self.repeats,
            mark=WIDE_MARK,
            wide=WIDE_SPREAD,
            none=NONE,
            warmup=WARMUP,
            large_warmup=LARGE_WARMUP,
            large=format_size(LARGE),
            seconds=self.settings.seconds,
            floor=FLOOR,
            floor_text=REFERENCES[FLOOR],
            limit=LIMIT,
            limit_text=REFERENCES[LIMIT],
            own_streams=OWN_STREAMS,
            ring=", ".join(sorted(IO_URING)),
        )

    def as_json(self) -> dict[str, Any]:
        """Return every sample, for other programs."""

        def per_loop(result: Result) -> dict[str, Any]:
            samples = [sample.as_dict() for sample in result.samples]
            return {"unavailable": result.failure, "samples": samples}

        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": self.environment,
            "settings": {**asdict(self.settings), "repeats": self.repeats},
            "notes": list(self.notes),
            "rows": [
                {
                    "group": row.group,
                    "title": row.title,
                    "loops": {loop: per_loop(result) for loop, result in cells.items()},
                }
                for row, cells in self.results.items()
            ],
        }


def by_group(results: Results) -> dict[str, Results]:
    groups: dict[str, Results] = {}
    for row, cells in results.items():
        groups.setdefault(row.group, {})[row] = cells
    return groups


def summary(results: Results) -> Iterator[str]:
    """Return a table with a line for each group of rows."""

    def over(values: tuple[float, float, float] | None) -> str:
        if values is None:
            return NONE
        median, low, high = values
        return f"{median:.2f}" if low == high else f"{median:.2f} ({low:.2f}..{high:.2f})"

    body = []
    for group, rows in by_group(results).items():
        for subject in SUBJECTS:
            found = summarise(rows, subject)
            if found is None:
                continue
            worst = NONE
            if found.worst:
                title, peer, factor = found.worst
                worst = f"{factor.median:.2f} times {peer} ({title})"
            counts = " / ".join(str(count) for count in found.verdicts.values())
            body.append(
                [
                    titled(group, subject),
                    str(found.rows),
                    over(found.baseline),
                    over(found.epoll),
                    worst,
                    counts,
                ]
            )
    yield (
        f"What {SUBJECT} costs relative to other loops, in CPU time: below 1 it costs less. The "
        "median over the rows of a group, and in parentheses the least and the greatest row; "
        "best and worst are meant row by row. What is measured, and how: see "
        "[Method](#method).\n"
    )
    head = ["", "rows", f"/ {BASELINE}", "/ best epoll loop", "worst row, to any loop"]
    yield from table([*head, "ahead / even / behind"], body)


def losses(results: Results) -> Iterator[str]:
    """List the rows in which a loop costs less than the subject, the worst first."""
    behind: list[tuple[Ratio, str]] = []
    close: list[tuple[Ratio, str]] = []
    cannot: dict[tuple[str, str], int] = {}
    for row, cells in results.items():
        for subject in SUBJECTS:
            own = cells.get(subject)
            if own is None:
                continue
            group = titled(row.group, subject)
            if own.failure is not None:
                cannot[group, own.failure] = cannot.get((group, own.failure), 0) + 1
            found = against_best(cells, subject, peers())
            if found is None or found[1].median <= 1:
                continue
            peer, factor = found
            span = f"{factor.low:.2f}..{factor.high:.2f}"
            line = f"- {group}, {row.title}: {factor.median:.2f} ({span}) times {peer}'s CPU time"
            (behind if factor.verdict == "behind" else close).append((factor, line))
    yield f"\n## Where {SUBJECT} loses\n"
    for (group, failure), count in cannot.items():
        yield f"- {group}, {count} row{'s' if count > 1 else ''}: {NONE}, {failure}"
    yield from worst_first(behind)
    if not cannot and not behind:
        yield "In no row."
    if close:
        yield "\nMore than the best other loop, but even by the repeats:\n"
        yield from worst_first(close)


def worst_first(entries: list[tuple[Ratio, str]]) -> Iterator[str]:
    for _, line in sorted(entries, key=lambda entry: -entry[0].median):
        yield line


def titled(group: str, subject: str) -> str:
    return TITLES[group] if subject == SUBJECT else f"{TITLES[group]}, {subject}"
