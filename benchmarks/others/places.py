"""The environment of a benchmark's programs: which loop stands where."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.process import ROOT
from benchmarks.loops import SUBJECT

STANDIN = Path(__file__).with_name("standin.py")
# See standin.py, which imports nothing of this package.
IN_PLACE_OF_ASYNCIO = "BENCHMARKS_LOOP"


def environment(folder: Path, asyncio_is: str | None = None) -> dict[str, str]:
    """Return what is different for a program that finds its modules in a folder first."""
    return {
        "PYTHONPATH": str(folder),
        "PYTHONWARNINGS": "ignore",
        IN_PLACE_OF_ASYNCIO: asyncio_is or "",
    }


@contextmanager
def places(name: str | None) -> Iterator[Path]:
    """Make a folder from which hybridloop can be imported, also under the name of another loop."""
    with tempfile.TemporaryDirectory(prefix="others-") as text:
        folder = Path(text)
        (folder / SUBJECT).symlink_to(ROOT / SUBJECT)
        (folder / "sitecustomize.py").symlink_to(STANDIN)
        if name is not None:
            (folder / f"{name}.py").symlink_to(STANDIN)
        yield folder


def whole(changes: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **changes}
