"""Name the rows of stored runs in which hybridloop is slower and nobody has said why.

python -m benchmarks.unexplained                         # the runs in docs/benchmarks
python -m benchmarks.unexplained docs/benchmarks/3.14.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.harness import reasons, store
from benchmarks.harness.report import unexplained


def lines(paths: Iterable[Path], known: reasons.Reasons) -> list[str]:
    """Return a line for each row that is slower without a reason."""
    return [
        f"{path.stem}: [{loss.row.group}] {loss.row.title!r}: {loss.text}"
        for path in paths
        for loss in unexplained(store.load(path).results, known)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="JSON files of runs")
    arguments = parser.parse_args()
    found = lines(arguments.runs or store.stored(), reasons.read())
    for line in found:
        print(line)
    if found:
        sys.exit(f"{len(found)} rows are slower and not explained: {reasons.FILE.name}")


if __name__ == "__main__":
    main()
