"""Runs as JSON, from which the pages can be made again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness.process import ROOT
from benchmarks.harness.report import Report
from benchmarks.harness.results import Results, Settings, StoredRow, packed, unpacked

OVERVIEW = ROOT / "docs" / "benchmarks.md"
FOLDER = ROOT / "docs" / "benchmarks"
OTHERS = FOLDER / "others.md"


def as_json(report: Report) -> dict[str, Any]:
    """Return everything that a run has found, with every single sample."""
    return {
        "python": report.python,
        "date": report.date,
        "environment": report.environment,
        "settings": {**asdict(report.settings), "repeats": report.repeats},
        "notes": list(report.notes),
        "sections": [list(section) for section in report.sections],
        "rows": [
            {
                "group": row.group,
                "title": row.title,
                "loops": {loop: packed(result) for loop, result in cells.items()},
            }
            for row, cells in report.results.items()
        ],
    }


def save(report: Report, path: Path) -> None:
    """Write a run, a line for each row, so that versions can be compared line by line."""
    document = as_json(report)
    rows = document.pop("rows")
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    head = json.dumps(document, ensure_ascii=False, indent=1).removesuffix("\n}")
    text = head + ',\n "rows": [\n' + ",\n".join(lines) + "\n ]\n}\n"
    path.write_text(text, encoding="utf-8")


def load(path: Path) -> Report:
    document = json.loads(path.read_text(encoding="utf-8"))
    settings = document["settings"]
    repeats = settings.pop("repeats")
    results: Results = {
        StoredRow(row["group"], row["title"]): {
            loop: unpacked(stored) for loop, stored in row["loops"].items()
        }
        for row in document["rows"]
    }
    return Report(
        results=results,
        settings=Settings(**settings),
        repeats=repeats,
        environment=document["environment"],
        notes=document["notes"],
        sections=[(heading, text) for heading, text in document["sections"]],
        python=document["python"],
        date=document["date"],
    )


def version_key(path: Path) -> list[int]:
    return [int(part) for part in path.stem.split(".")]


def stored() -> list[Path]:
    """Return the committed runs, that of the oldest Python first."""
    return sorted(FOLDER.glob("*.json"), key=version_key)
