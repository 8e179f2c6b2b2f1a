"""What the import of a loop takes on top of that of asyncio, and the size of its library.

python -m benchmarks.imports --loops uvloop,hybridloop
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.arguments import choice_of
from benchmarks.harness.process import Unavailable, numbers_of
from benchmarks.harness.tables import NONE, table
from benchmarks.loops import LOOPS, SAFE, environment_of, installed, loop_of, with_variants

FIGURES = ("modules", "ms", "resident")
ASYNCIO = "asyncio"
TIMEOUT = 60.0
KIB = 1024


def library_kib(module: str) -> float | None:
    """Return the size of a package's extension modules; None if it has none."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    # Of this Python; a working copy has those of others as well.
    own, *others = importlib.machinery.EXTENSION_SUFFIXES
    found = [*folder.rglob(f"*{own}")]
    for suffix in others:
        found = found or [*folder.rglob(f"*{suffix}")]
    return sum(path.stat().st_size for path in found) / KIB if found else None


def measure(column: str) -> dict[str, float]:
    """Import the package of a column in a fresh process: asyncio as such, others after it."""
    loop = loop_of(column)
    before = () if loop == ASYNCIO else (ASYNCIO,)
    return numbers_of(
        "benchmarks.importing", LOOPS[loop], *before, timeout=TIMEOUT, env=environment_of(column)
    )


def cell(samples: Sequence[dict[str, float]], figure: str) -> str:
    values = [sample[figure] for sample in samples]
    digits = 1 if figure == "ms" else 0
    ordered = (statistics.median(values), min(values), max(values))
    texts = [f"{value:,.{digits}f}" for value in ordered]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} ({texts[1]}..{texts[2]})"


def size_cell(column: str) -> str:
    size = None if column == ASYNCIO else library_kib(LOOPS[loop_of(column)])
    return NONE if size is None else f"{size:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", type=choice_of(LOOPS), default=list(LOOPS))
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes per loop")
    arguments = parser.parse_args()
    usable, _ = installed(arguments.loops)
    columns = [name for name in with_variants(usable, safe=True) if name == SAFE or name in LOOPS]
    samples: dict[str, list[dict[str, float]]] = {column: [] for column in columns}
    failures: dict[str, str] = {}
    for _ in range(arguments.rounds + 1):
        for column, found in samples.items():
            try:
                found.append(measure(column))
            except Unavailable as error:
                failures[column] = str(error)
    body = [
        # The first of each brings its files into the page cache.
        [column, *(cell(found[1:], figure) for figure in FIGURES), size_cell(column)]
        for column, found in samples.items()
        if column not in failures
    ]
    body += [[column, f"n/a: {reason}", "", "", ""] for column, reason in failures.items()]
    head = ["", "modules", "ms", "resident, KiB", "library, KiB"]
    print("\n".join(table(head, body)))


if __name__ == "__main__":
    main()
