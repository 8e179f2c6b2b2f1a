"""What a wait of an ordinary function costs, measured as the benchmark does. (T3.34)"""

import os

import pytest

from benchmarks import waiting
from benchmarks.harness.tables import NONE
from benchmarks.loops import SUBJECT

WAITS = 200

pytestmark = [
    pytest.mark.skipif(
        not os.path.exists("/proc/self/smaps_rollup"),
        reason="the memory of a process is read from Linux's /proc",
    ),
    # Each sample is a process of its own.
    pytest.mark.timeout(900),
]


def test_every_way_is_measured_on_each_of_its_loops(capsys):
    loops = ["asyncio", SUBJECT]
    samples = waiting.Samples(loops, WAITS)
    samples.take()
    assert not samples.failures
    assert all(len(found) == 1 for found in samples.cells.values())
    assert {title for title, _ in samples.cells} == {*waiting.WAYS, *waiting.MANY}
    waiting.report(samples, loops, 1)
    lines = capsys.readouterr().out.splitlines()
    for title in waiting.WAYS:
        (line,) = [line for line in lines if line.startswith(f"| {title} |")]
        assert NONE not in line or "sync.nest()" in title


def test_a_failure_is_named(capsys, monkeypatch):
    monkeypatch.setitem(waiting.WAYS, "broken", ("asyncio", {SUBJECT}, waiting.plain))
    samples = waiting.Samples([SUBJECT], WAITS)
    samples.cells = {("broken", SUBJECT): []}
    samples.take()
    samples.take()
    waiting.report(samples, [SUBJECT], 2)
    out = capsys.readouterr().out
    assert f"| broken | {NONE} |" in out
    assert f"broken on {SUBJECT}: KeyError: 'broken'" in out
