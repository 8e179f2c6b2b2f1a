"""The pages in docs: one for each stored run, and the overview."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import charts, reasons, store
from benchmarks.harness.compare import against_best, over_rows, peers, ratio, summarise
from benchmarks.harness.report import Report, unexplained
from benchmarks.harness.tables import NONE, table
from benchmarks.loops import BASELINE, SUBJECT

# What stands between these lines of the overview is written here; the rest is written by hand.
BEGIN = "<!-- begin: written by python -m benchmarks -->"
END = "<!-- end: written by python -m benchmarks -->"
OTHERS_TITLE = "Other loops' own benchmarks on hybridloop"


def with_reasons(report: Report) -> Report:
    return replace(report, reasons=reasons.read())


def render(path: Path) -> Report:
    """Write the page and the charts of a stored run beside it."""
    report = with_reasons(store.load(path))
    images = []
    for old in path.parent.glob(f"{path.stem}-*.svg"):
        old.unlink()
    for kind, text in charts.of_run(report.results).items():
        image = path.with_name(f"{path.stem}-{kind}.svg")
        image.write_text(text, encoding="utf-8")
        images.append(image.name)
    path.with_suffix(".md").write_text(report.markdown(images), encoding="utf-8")
    return report


def render_all() -> None:
    """Write the pages of all committed runs, and the overview."""
    reports = [render(path) for path in store.stored()]
    page = store.OVERVIEW.read_text(encoding="utf-8")
    store.OVERVIEW.write_text(replaced(page, current_overview(reports)), encoding="utf-8")


def current_overview(reports: list[Report]) -> Iterator[str]:
    return overview(reports, store.OTHERS.exists())


def replaced(page: str, lines: Iterable[str]) -> str:
    """Return a page with other lines between the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}"


def overview(reports: list[Report], others: bool = False) -> Iterator[str]:
    """Return a line for each run, and the charts of the newest Python."""
    if others:
        yield f"[{OTHERS_TITLE}](benchmarks/{store.OTHERS.name}) are measured by themselves.\n"
    if not reports:
        yield "No run is stored."
        return
    body = []
    for report in reports:
        rows = summarise(report.results, SUBJECT)
        if rows is None:
            continue
        to_best = over_rows(
            [
                found[1].median
                for cells in report.results.values()
                if (found := against_best(cells, SUBJECT, peers()))
            ]
        )
        to_control = over_rows(
            [
                factor.median
                for cells in report.results.values()
                if (factor := ratio(cells.get(SUBJECT), cells.get(charts.CONTROL)))
            ]
        )
        body.append(
            [
                f"[{report.python}](benchmarks/{report.python}.md)",
                report.date,
                str(rows.rows),
                *(
                    f"{median[0]:.2f}" if median else NONE
                    for median in (to_control, rows.baseline, to_best)
                ),
                " / ".join(str(count) for count in rows.verdicts.values()),
                str(len(unexplained(report.results, report.reasons))),
            ]
        )
    head = ["Python", "date", "rows", f"/ {charts.CONTROL}", f"/ {BASELINE}", "/ best other loop"]
    yield from table([*head, "ahead / even / behind", "not explained"], body)
    yield ""
    yield from (f"- {report.python}: {note}" for report in reports for note in report.notes)
    for report in reports[-1:]:
        for kind in charts.of_run(report.results):
            yield f"\n![{charts.ALTERNATIVE}](benchmarks/{report.python}-{kind}.svg)"
