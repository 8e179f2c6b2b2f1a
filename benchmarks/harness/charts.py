"""Charts of a run: CPU time of each loop beside asyncio's, as SVG."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from benchmarks.harness.compare import ratio
from benchmarks.harness.results import Results, Row
from benchmarks.loops import LOOPS, SAFE

CONTROL = "asyncio"
ALTERNATIVE = "CPU time of each loop, as a part of asyncio's: shorter is better"
WIDTH = 900
ROW_HEIGHT = 11
FRAME = 130
LIMIT = 1.5
COLOURS = ("#9e9e9e", "#e69f00", "#56b4e9", "#cc79a7", "#b8a800", "#8c6bb1", "#009e73", "#66c2a5")

# Name of a file → title, and the groups whose rows it shows.
KINDS = {
    "servers": (
        "Servers",
        ("http", "echo-protocol", "echo-streams", "echo-sock", "echo-udp", "echo-tls", "connect"),
    ),
    "micro": ("Operations", ("micro",)),
    "trees": ("async_tree", ("trees",)),
}
SUBTITLE = f"CPU time as a part of asyncio's (shorter is better; cut at {LIMIT})"
SHORT = {
    "echo-protocol": "Protocol",
    "echo-streams": "streams",
    "echo-sock": "sock_*",
    "echo-udp": "UDP",
    "echo-tls": "TLS",
    "connect": "connect",
}


def label(row: Row) -> str:
    title = re.sub(r" of a trivial coroutine|: 100k timers.*|: spawn.*|, round trip", "", row.title)
    title = title.partition(":")[0] if row.group == "trees" else title
    return f"{SHORT[row.group]}, {title}" if row.group in SHORT else title


def series(rows: Results) -> dict[str, list[float | None]]:
    """Return each loop's CPU time in each row, relative to the control."""
    names = [*LOOPS, SAFE]
    found: dict[str, list[float | None]] = {}
    for name in names:
        factors = [ratio(cells.get(name), cells.get(CONTROL)) for cells in rows.values()]
        if any(factors):
            found[name] = [round(factor.median, 3) if factor else None for factor in factors]
    return found


def chart(title: str, labels: Sequence[str], columns: dict[str, list[float | None]]) -> str:
    """Return a chart with a bar for each row and column."""
    import pygal  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from pygal.style import Style  # type: ignore[import-untyped,import-not-found,unused-ignore]

    known = [*LOOPS, SAFE]
    style = Style(
        background="#ffffff",
        plot_background="#ffffff",
        colors=tuple(COLOURS[known.index(name) % len(COLOURS)] for name in columns),
        font_family="sans-serif",
        title_font_size=15,
        label_font_size=10,
        major_label_font_size=10,
        opacity="1",
    )
    bars = len(labels) * (len(columns) + 1)
    picture = pygal.HorizontalBar(
        style=style,
        js=[],
        disable_xml_declaration=True,
        width=WIDTH,
        height=FRAME + ROW_HEIGHT * bars,
        legend_at_bottom=True,
        legend_at_bottom_columns=4,
        range=(0, LIMIT),
        truncate_label=-1,
        x_title="",
        title=title,
    )
    # Its styles are of this id alone, which is a random one else.
    picture.uuid = "bars"
    # The first row stands on top.
    picture.x_labels = list(reversed(labels))
    for name, values in columns.items():
        cut = [None if value is None else min(value, LIMIT) for value in values]
        picture.add(name, list(reversed(cut)))
    text: str = picture.render(is_unicode=True)
    # Scripts do not run in a picture, and the date would make each rendering another.
    return re.sub(r"<!--.*?-->|<script.*?</script>", "", text, flags=re.DOTALL) + "\n"


def of_run(results: Results) -> dict[str, str]:
    """Return the charts of a run by kind."""
    found = {}
    for kind, (title, groups) in KINDS.items():
        rows = in_groups(results, groups)
        columns = series(rows)
        if len(columns) > 1:
            found[kind] = chart(f"{title}: {SUBTITLE}", [label(row) for row in rows], columns)
    return found


def in_groups(results: Results, groups: Iterable[str]) -> Results:
    """Return the rows of these groups, in the order of the groups."""
    return {row: cells for group in groups for row, cells in results.items() if row.group == group}
