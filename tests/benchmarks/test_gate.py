"""A change that takes more instructions is told from one that doesn't."""

import json
import platform
from collections import Counter

import pytest

from benchmarks import gate
from benchmarks.harness.callgrind import Profile

MINOR = ".".join(platform.python_version_tuple()[:2])


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command with these counts; give its exit status and what it prints."""
    monkeypatch.setattr(gate, "BASELINES", tmp_path / "baselines")
    monkeypatch.setattr(gate, "require", lambda tool: None)

    def run(rows, *arguments):
        monkeypatch.setattr(gate, "count", lambda: rows)
        monkeypatch.setattr("sys.argv", ["gate", *arguments])
        try:
            gate.main()
        except SystemExit as end:
            return end.code, capsys.readouterr().out
        return 0, capsys.readouterr().out

    return run


def test_a_row_that_takes_more_fails(run):
    assert run({"Protocol": 1000.0, "UDP": 100.0}, "--write") == (0, "")
    status, out = run({"Protocol": 1049.0, "UDP": 90.0})
    assert status == 0
    assert "| Protocol | 1,000 | 1,049 | +4.9% |" in out
    assert "| UDP | 100 | 90 | -10.0% |" in out
    status, out = run({"Protocol": 1051.0, "UDP": 90.0})
    assert "5%" in status
    assert "**+5.1%**" in out


@pytest.mark.parametrize("rows", [{}, {"a": 1.0, "b": 2.0}])
def test_rows_that_come_and_go_fail(run, rows):
    run({"a": 1.0}, "--write")
    status, out = run(rows)
    assert status
    assert ("**new**" if rows else "**gone**") in out


def test_another_python_is_no_fault_of_the_loop(run):
    run({"a": 1.0}, "--write")
    path = gate.BASELINES / f"{MINOR}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "python": f"{MINOR}.999"}))
    status, out = run({"a": 2.0})
    assert status == 0
    assert "**+100.0%**" in out
    assert f"{MINOR}.999" in out


def test_no_baseline(run):
    status, _ = run({"a": 1.0})
    assert "--write" in status


def test_what_depends_on_the_processor_is_not_counted():
    costs = {
        "/x/hybridloop/_core.cpython-314-x86_64-linux-gnu.so": 1,
        "/usr/bin/python3.14": 2,
        "/usr/lib/libpython3.14.so.1.0": 4,
        "/usr/lib/x86_64-linux-gnu/libc.so.6": 8,
        "/usr/lib/x86_64-linux-gnu/libcrypto.so.3": 16,
        "": 32,
    }
    profile = Profile(own=Counter({(owner, "f"): cost for owner, cost in costs.items()}))
    assert gate.counted(profile) == 7
