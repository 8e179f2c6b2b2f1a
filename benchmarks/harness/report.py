"""Renders the results of a run as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.harness import charts
from benchmarks.harness.compare import Ratio, against_best, peers, summarise
from benchmarks.harness.echo import LARGE, LARGE_WARMUP, WARMUP, format_size
from benchmarks.harness.reasons import NOT_EXPLAINED, Reasons, reason_for
from benchmarks.harness.results import Results, Row, Settings
from benchmarks.harness.rows import TITLES
from benchmarks.harness.tables import NONE, WIDE_MARK, WIDE_SPREAD, group_lines, table
from benchmarks.loops import (
    BASELINE,
    FLOOR,
    IO_URING,
    LIMIT,
    OWN_STREAMS,
    REFERENCES,
    SAFE,
    SAFE_SWITCH,
    SUBJECT,
    SUBJECTS,
)

METHOD = """\
**CPU time** is the main figure: user and system time of all threads of the server (or of the \
micro-benchmark's process), divided by the messages, requests, connections or operations of the \
measured window. It is read from the scheduler's nanosecond counters, and is disturbed less by \
other work on the machine than a rate. Child processes are not included.

Every sample starts a new server and a new client, each pinned to a core. The loops of a row are \
measured alternately, {repeats} times, each time in another order, so that drift of the machine \
affects all of them. A cell shows the median of its samples and, in parentheses, the minimum and \
the maximum; {mark} marks a cell whose minimum and maximum differ by more than {wide:.0%} of the \
median. A ratio is the median of the ratios of the repeats; below 1, {subject} uses less. It is \
*even* unless all repeats agree on which loop uses less and the median differs from 1 by at \
least 1 %.

Echo servers get {warmup:,} messages of warm-up ({large_warmup} from {large} on), then a window \
of {seconds:g} s. The load generator has one message per connection in flight and compares every \
byte of the response. TLS connections use version 1.3 with an ECDSA P-256 certificate, and the \
client resumes no session. HTTP rows are driven by wrk, for at least a second after a second of \
warm-up. Each server first frees one large block, as most programs have done before they serve: \
until then glibc maps every 256 KiB read buffer anew, which multiplies the cost of loops that \
allocate one per read. With one connection, most of the time is spent by the operating system's \
kernel on sleeping and waking.

`{floor}` is {floor_text}, with one recv, one call into Python and one send per message and \
nothing else; a loop can only be below it by saving system calls. `{limit}` is {limit_text}: the \
cost of the operating system's kernel, and of TLS, alone. `{own_streams}` are {subject}'s own \
streams (`hybridloop.start_server()`), next to asyncio's on the loops. `{safe}` has \
`{safe_switch}=1` in its environment, so that nothing looks into private memory of CPython. {ring} \
wait with io_uring if the kernel supports it, the others with epoll. {none} is a row that a loop \
does not support, with the reason below the table. The trees are pyperformance's own file, \
unmodified, one tree in each process. `benchmarks/README.md` says how to run this."""


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
    python: str = ""
    date: str = ""
    reasons: Reasons = field(default_factory=dict)

    def markdown(self, images: Sequence[str] = ()) -> str:
        """Return the page; ``images`` are addresses of charts for its top."""
        return "\n".join(self.lines(images)) + "\n"

    def lines(self, images: Sequence[str]) -> Iterator[str]:
        yield f"# Benchmarks on Python {self.python}\n"
        yield (
            f"{self.date}, by `python -m benchmarks`; every sample is in "
            f"[{self.python}.json]({self.python}.json). "
            "The [overview](../benchmarks.md) has the other versions of Python.\n"
        )
        for image in images:
            yield f"![{charts.ALTERNATIVE}]({image})\n"
        if any(SUBJECT in cells for cells in self.results.values()):
            yield from summary(self.results)
            yield from losses(self.results, self.reasons)
        yield "\n## Method\n"
        yield self.method()
        yield ""
        yield from (f"- {name}: {value}" for name, value in self.environment.items())
        yield f"- Date: {self.date}"
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
            safe=SAFE,
            safe_switch=SAFE_SWITCH,
            ring=" and ".join(sorted(IO_URING)),
        )


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
        f"CPU time of {SUBJECT}, relative to other loops: below 1 it uses less. A cell is the "
        "median over the rows of a group, with the minimum and the maximum in parentheses; best "
        "and worst are determined for each row. See [Method](#method).\n"
    )
    head = ["", "rows", f"/ {BASELINE}", "/ best epoll loop", "worst row, to any loop"]
    yield from table([*head, "ahead / even / behind"], body)


@dataclass(frozen=True)
class Loss:
    """A row in which another loop costs less than the subject."""

    row: Row
    ratio: Ratio
    text: str


def all_losses(results: Results) -> list[Loss]:
    """Return every row whose median is above another loop's, the worst first."""
    found = []
    for row, cells in results.items():
        for subject in SUBJECTS:
            best = against_best(cells, subject, peers())
            if best is None or best[1].median <= 1:
                continue
            peer, factor = best
            span = f"{factor.low:.2f}..{factor.high:.2f}"
            text = f"{factor.median:.2f} ({span}) times {peer}'s CPU time"
            found.append(Loss(row, factor, f"{titled(row.group, subject)}, {row.title}: {text}"))
    return sorted(found, key=lambda loss: -loss.ratio.median)


def behind(results: Results) -> list[Loss]:
    """Return the losses that the repeats agree on."""
    return [loss for loss in all_losses(results) if loss.ratio.verdict == "behind"]


def unexplained(results: Results, reasons: Reasons) -> list[Loss]:
    """Return the clear losses that nobody has given a reason for."""
    return [loss for loss in behind(results) if reason_for(loss.row, reasons) == NOT_EXPLAINED]


def losses(results: Results, reasons: Reasons) -> Iterator[str]:
    """List the rows in which a loop costs less than the subject, the worst first, and why."""
    cannot: dict[tuple[str, str], int] = {}
    for row, cells in results.items():
        for subject in SUBJECTS:
            own = cells.get(subject)
            if own is not None and own.failure is not None:
                key = titled(row.group, subject), own.failure
                cannot[key] = cannot.get(key, 0) + 1
    clear = behind(results)
    close = [loss for loss in all_losses(results) if loss not in clear]
    yield f"\n## Rows in which {SUBJECT} is slower\n"
    for (group, failure), count in cannot.items():
        yield f"- {group}, {count} row{'s' if count > 1 else ''}: {NONE}, {failure}"
    for loss in clear:
        yield f"- {loss.text}: {reason_for(loss.row, reasons)}"
    if not cannot and not clear:
        yield "None."
    if close:
        yield "\nSlower than the best other loop, but even by the repeats:\n"
        yield from (f"- {loss.text}" for loss in close)


def titled(group: str, subject: str) -> str:
    return TITLES[group] if subject == SUBJECT else f"{TITLES[group]}, {subject}"
