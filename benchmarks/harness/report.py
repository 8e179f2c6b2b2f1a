"""Renders results as Markdown and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from benchmarks.harness.rows import ECHO_KINDS, ECHO_WARMUP, TITLES, Result, Row, Settings
from benchmarks.loops import BASELINE, FLOOR, LIMIT, LOOPS, REFERENCES, SUBJECT

Results = dict[Row, dict[str, Result]]

METHOD = """\
Each figure is the median of {repeats} samples, with the least and the greatest in parentheses, \
and the ratio to {baseline} (below 1 is better). Every sample starts a fresh process; the loops \
take turns within each row, so that drift of the machine meets all of them. The main figure is \
**CPU time**, user and system together, of all threads of the server (or of the micro-benchmark's \
process) divided by the messages, requests or operations of the measured window; it is read from \
the scheduler's nanosecond counters and disturbed less by other work on the machine than a rate \
is. Server and client are pinned to a core each. Echo servers get {warmup} messages of warm-up, \
then a window of {seconds:g} s; the load generator keeps one message per connection under way and \
compares every byte that comes back. HTTP rows are driven by wrk, after a second of warm-up. \
`{floor}` is {floor_text}, with one recv, one call into Python and one send per message and \
nothing else; a loop gets below it only by saving system calls. `{limit}` is {limit_text}: what \
the kernel alone costs. Both echo in the manner of a Protocol and stand in every echo table for \
comparison. Each server first frees one large block, as most programs have done before they \
serve: until then glibc maps every 256 KiB read buffer anew, which multiplies the cost of loops \
that make one per read. With one connection, most of the time is the kernel's for sleeping and \
waking. Differences smaller than the spread say nothing. How to run this: \
`benchmarks/README.md`."""


def render(
    results: Results,
    settings: Settings,
    repeats: int,
    environment: dict[str, str],
    notes: Sequence[str],
) -> str:
    """Return the report as Markdown."""
    return "\n".join(lines(results, settings, repeats, environment, notes)) + "\n"


def lines(
    results: Results,
    settings: Settings,
    repeats: int,
    environment: dict[str, str],
    notes: Sequence[str],
) -> Iterator[str]:
    yield "# Benchmarks\n"
    yield METHOD.format(
        repeats=repeats,
        baseline=BASELINE,
        warmup=f"{ECHO_WARMUP:,}",
        seconds=settings.seconds,
        floor=FLOOR,
        floor_text=REFERENCES[FLOOR],
        limit=LIMIT,
        limit_text=REFERENCES[LIMIT],
    )
    yield ""
    yield from (f"- {name}: {value}" for name, value in environment.items())
    yield f"- Date: {datetime.now(UTC):%Y-%m-%d}"
    yield from (f"- {note}" for note in notes)
    if any(SUBJECT in cells for cells in results.values()):
        yield from losses(results)
    for group in dict.fromkeys(row.group for row in results):
        rows = {row: cells for row, cells in results.items() if row.group == group}
        yield f"\n## {TITLES[group]}\n"
        yield from cpu_table(group, rows)
        if group != "micro":
            yield from rate_table(rows)


def columns(rows: Results) -> list[str]:
    measured = {loop for cells in rows.values() for loop in cells}
    return [name for name in [*LOOPS, *REFERENCES] if name in measured]


def ratio(cells: dict[str, Result], other: str | None) -> float | None:
    """Return the subject's CPU time relative to another loop's."""
    if SUBJECT not in cells or other is None or other not in cells:
        return None
    own, base = cells[SUBJECT].cpu(), cells[other].cpu()
    return own / base if own is not None and base else None


def best_peer(cells: dict[str, Result]) -> str | None:
    """Return the loop other than the subject that costs least."""
    costs = {loop: cells[loop].cpu() for loop in cells if loop in LOOPS and loop != SUBJECT}
    known = {loop: cost for loop, cost in costs.items() if cost is not None}
    return min(known, key=known.__getitem__) if known else None


def losses(results: Results) -> Iterator[str]:
    yield f"\n## Where {SUBJECT} loses\n"
    found = False
    for row, cells in results.items():
        own = cells.get(SUBJECT)
        name = f"{TITLES[row.group]}: {row.title}"
        if own is not None and own.failure is not None:
            found = True
            yield f"- {name}: n/a, {own.failure}"
        peer = best_peer(cells)
        factor = ratio(cells, peer)
        if own is None or peer is None or factor is None or factor <= 1:
            continue
        found = True
        # Ranges that overlap leave the order open.
        within = " (within the spread)" if own.spread()[0] <= cells[peer].spread()[1] else ""
        yield f"- {name}: {factor:.2f} times {peer}'s CPU time{within}"
    if not found:
        yield "In none of the rows below."


def cpu_table(group: str, rows: Results) -> Iterator[str]:
    loops = columns(rows)
    unit, scale = ("ns", 1.0) if group == "micro" else ("µs", 1e3)
    per = {"http": "request", "micro": "operation"}.get(group, "message")
    compared = [BASELINE, "best peer", *([FLOOR] if group in ECHO_KINDS else [])]
    extra = [f"{SUBJECT} / {name}" for name in compared] if SUBJECT in loops else []
    footnotes: list[str] = []

    def cell(cells: dict[str, Result], loop: str) -> str:
        result = cells.get(loop)
        if result is None:
            return "-"
        cost = result.cpu()
        if cost is None:
            note = f"{loop}: {result.failure}"
            if note not in footnotes:
                footnotes.append(note)
            return f"n/a [{footnotes.index(note) + 1}]"
        low, high = result.spread()
        base = cells[BASELINE].cpu() if BASELINE in cells else None
        relative = f" {cost / base:.2f}x" if base and loop != BASELINE else ""
        digits = 0 if unit == "ns" else 2
        text = f"{cost / scale:,.{digits}f} ({low / scale:,.{digits}f}..{high / scale:,.{digits}f})"
        return text + relative

    def comparison(cells: dict[str, Result]) -> list[str]:
        peer = best_peer(cells)
        factors = [ratio(cells, BASELINE), ratio(cells, peer), ratio(cells, FLOOR)]
        texts = ["-" if factor is None else f"{factor:.2f}" for factor in factors]
        if factors[1] is not None:
            texts[1] += f" ({peer})"
        return texts[: len(extra)]

    yield f"CPU time per {per}, {unit}:\n"
    yield from table(
        ["", *loops, *extra],
        [
            [row.title, *(cell(cells, loop) for loop in loops), *comparison(cells)]
            for row, cells in rows.items()
        ],
    )
    if footnotes:
        yield ""
        yield from (f"[{number}] {note}  " for number, note in enumerate(footnotes, 1))


def rate_table(rows: Results) -> Iterator[str]:
    def latency(value: float | None) -> str:
        return "-" if value is None else f"{value:,.0f}"

    def cell(result: Result | None) -> str:
        rate = result.median("per_second") if result else None
        if result is None or rate is None:
            return "-"
        quantiles = f"{latency(result.median('p50_us'))} / {latency(result.median('p99_us'))}"
        return f"{rate:,.0f}; {quantiles}"

    loops = columns(rows)
    yield "\nSeen by the client: rate per second; latency p50 / p99, µs:\n"
    yield from table(
        ["", *loops],
        [[row.title, *(cell(cells.get(loop)) for loop in loops)] for row, cells in rows.items()],
    )


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'--:|' * (len(head) - 1)}"
    yield from (f"| {' | '.join(cells)} |" for cells in body)


def as_json(
    results: Results,
    settings: Settings,
    repeats: int,
    environment: dict[str, str],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return every sample, for other programs."""

    def per_loop(result: Result) -> dict[str, Any]:
        samples = [sample.as_dict() for sample in result.samples]
        return {"unavailable": result.failure, "samples": samples}

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment,
        "settings": {**asdict(settings), "repeats": repeats},
        "notes": list(notes),
        "rows": [
            {
                "group": row.group,
                "title": row.title,
                "loops": {loop: per_loop(result) for loop, result in cells.items()},
            }
            for row, cells in results.items()
        ],
    }
