"""Why hybridloop is slower in a row: reasons written by hand, in ``benchmarks/reasons.toml``.

A table for each group of rows; in it, the titles of rows, or ``"*"`` for all rows of the group.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness.results import Row

FILE = Path(__file__).parents[1] / "reasons.toml"
NOT_EXPLAINED = "not explained yet"
ANY = "*"

Reasons = Mapping[str, Mapping[str, str]]


def read(path: Path = FILE) -> Reasons:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def reason_for(row: Row, reasons: Reasons) -> str:
    """Return why a row is slower, or that nobody has said so yet."""
    group = reasons.get(row.group, {})
    return group.get(row.title) or group.get(ANY) or NOT_EXPLAINED
