"""docs/conformance.md: how it is made from outcomes, and that the one committed is of now."""

import json

import pytest

from . import document, modules, registry


def outcomes(**by_test):
    results = [
        {"id": f"test_x.Case.{name}", "outcome": outcome, "loops": 1}
        for name, outcome in by_test.items()
    ]
    return [{"module": "test_x", "skipped": "", "results": results}]


@pytest.fixture
def runs(tmp_path):
    kept = {
        "one.json": ("3.9.1", {"asyncio": outcomes(a="pass", b="pass")}),
        "two.json": ("3.9.1", {"uvloop": outcomes(a="error", b="hang")}),
        "three.json": ("3.9.1", {"hybridloop": outcomes(a="fail", b="skip")}),
    }
    for name, (python, loops) in kept.items():
        (tmp_path / name).write_text(json.dumps({"python": python, "loops": loops}))
    return document.read(sorted(tmp_path.glob("*.json")))


def test_totals(runs):
    assert document.totals(runs).splitlines()[2:] == [
        "| 3.9.1 | asyncio | 2 | 0 | 0 | 0 | 0 |",
        "| 3.9.1 | uvloop | 0 | 1 | 1 | 0 | 0 |",
        "| 3.9.1 | hybridloop | 0 | 1 | 0 | 0 | 1 |",
    ]


def test_failures_of_hybridloop_come_with_a_reason(runs, tmp_path):
    path = tmp_path / "registry.toml"
    path.write_text('[[expected]]\ntests = ["test_x.Case.a"]\nreason = """\nTwo\nlines."""')
    text = document.expected(runs, registry.read(path))
    assert text == "- `test_x.Case.a` (3.9.1): Two lines."
    with pytest.raises(SystemExit, match="test_x.Case.a"):
        document.expected(runs, [])


def test_failures_of_another_loop_are_counted_by_class(runs):
    assert document.groups(runs, "uvloop").splitlines()[2:] == ["| `test_x.Case` | 2 |"]


def test_the_committed_page_knows_what_may_fail_and_what_is_left_out():
    text = document.DOCUMENT.read_text(encoding="utf-8")
    known = [entry for entry in registry.read() if entry.section == "expected"]
    assert all(" ".join(entry.reason.split()) in text for entry in known)
    assert all(f"- `{name}`: " in text for name in modules.LEFT_OUT)
