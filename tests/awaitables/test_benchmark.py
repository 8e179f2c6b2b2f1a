"""What async functions in C and Rust cost, measured as the benchmark does. (T2.23)"""

import importlib.util

import pytest

from benchmarks.awaitables import __main__ as benchmark
from benchmarks.harness.tables import NONE
from benchmarks.loops import SUBJECT


# Each sample is a process of its own, and a crate is built.
@pytest.mark.timeout(900)
def test_every_way_is_measured(capsys):
    benchmark.report([SUBJECT], 1)
    out, err = capsys.readouterr()
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| ")]
    c, rust = rows[0], rows[3]
    peers = ["PyAwaitable"] if importlib.util.find_spec("pyawaitable") else []
    assert c[-3 - len(peers) :] == ["async def", "callbacks", "steps", *peers]
    assert rust[-3:] == ["async def", f"hybridloop-async, {SUBJECT}", f"peer, {SUBJECT}"]
    assert all(float(cell.split()[0]) > 0 for row in rows[1:3] for cell in row[1:])
    (untold,) = [row[0] for row in rows[4:] if NONE in row]
    assert untold == "a future that a thread finishes"
    assert bool(err) == (not peers)
