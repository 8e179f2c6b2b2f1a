"""The rules by which two runs of a suite are compared."""

import sys

import pytest

from . import compare
from .running import Result, Run

PASSED = Result("passed", loops=1)
FAILED = Result("failed", "because")


def run_of(**results):
    return Run(dict(results))


def never_again(ids):
    raise AssertionError("nothing was to be run again")


def always(control, tested):
    """What running again comes to, if it comes to the same each time."""
    return lambda ids: (control, tested)


def known(tmp_path, text):
    path = tmp_path / "known.toml"
    path.write_text(text)
    return compare.read(path)


def test_the_list_itself_is_valid():
    assert compare.read()


@pytest.mark.parametrize(
    "text",
    [
        '[[difference]]\nsuite = "s"\ntests = ["a"]',
        '[[difference]]\nsuite = "s"\nreason = "because"',
        '[[difference]]\ntests = ["a"]\nreason = "because"',
        '[[difference]]\nsuite = "s"\ntests = ["a"]\nreason = " "',
        '[[difference]]\nsuite = "s"\ntests = ["a"]\nreason = "because"\nloop = "x"',
        '[[flaky]]\nsuite = "s"\ntests = ["a"]\nreason = "because"',
    ],
)
def test_an_incomplete_list_is_refused(tmp_path, text):
    with pytest.raises(ValueError):
        known(tmp_path, text)


def test_equal_runs_have_no_difference():
    run = run_of(a=PASSED, b=FAILED, c=Result("skipped"))
    found = compare.compare("s", run, run, [], never_again)
    assert found == compare.Comparison()


@pytest.mark.parametrize("outcome", ["failed", "error", "skipped", "xpassed", "hang", "crash"])
def test_a_test_that_does_not_pass_any_more_is_a_problem(outcome):
    control = run_of(a=PASSED, b=PASSED)
    tested = run_of(a=Result(outcome, "why"), b=PASSED)
    found = compare.compare("s", control, tested, [], always(control, tested))
    assert found.problems == [f"a: {outcome}\nwhy"]


def test_a_test_that_did_not_run_is_a_problem():
    control, tested = run_of(a=PASSED, b=PASSED), run_of(b=PASSED)
    found = compare.compare("s", control, tested, [], always(control, tested))
    assert found.problems == ["a: not run"]


def test_a_test_that_passes_when_run_again_is_unsteady():
    control = run_of(a=PASSED, b=PASSED)
    tested = run_of(a=FAILED, b=PASSED)
    found = compare.compare("s", control, tested, [], always(control, control))
    assert not found.problems
    assert found.unsteady == ["a: fails 1 of 4 times, with asyncio 0 of 4"]


def test_a_test_that_fails_with_asyncio_when_run_again_is_unsteady():
    control = run_of(a=PASSED, b=PASSED)
    tested = run_of(a=FAILED, b=PASSED)
    found = compare.compare("s", control, tested, [], always(tested, tested))
    assert not found.problems
    assert found.unsteady == ["a: fails 4 of 4 times, with asyncio 3 of 4"]


def test_a_test_that_is_not_found_when_run_again_is_a_problem():
    control = run_of(a=PASSED, b=PASSED)
    tested = run_of(a=FAILED, b=PASSED)
    found = compare.compare("s", control, tested, [], always(run_of(), run_of()))
    assert found.problems == ["a: failed\nbecause"]


def test_a_test_that_only_asyncio_fails_is_told():
    control, tested = run_of(a=FAILED), run_of(a=PASSED)
    found = compare.compare("s", control, tested, [], never_again)
    assert not found.problems
    assert found.gained == ["a"]


ENTRY = '[[difference]]\nsuite = "s"\ntests = ["t.py::a[*]"]\nreason = "because"\n'


def test_a_known_difference_is_accepted(tmp_path):
    entries = known(tmp_path, ENTRY)
    control = run_of(**{"t.py::a[1]": PASSED, "b": PASSED})
    tested = run_of(**{"t.py::a[1]": FAILED, "b": PASSED})
    found = compare.compare("s", control, tested, entries, never_again)
    assert not found.problems
    assert found.known == ["t.py::a[1]"]


def test_a_known_difference_that_passes_is_out_of_date(tmp_path):
    entries = known(tmp_path, '[[difference]]\nsuite = "s"\ntests = ["a"]\nreason = "because"')
    run = run_of(a=PASSED)
    found = compare.compare("s", run, run, entries, never_again)
    assert found.problems == ["a: passes; the known differences are out of date"]


def test_a_known_difference_of_no_test_is_out_of_date(tmp_path):
    entries = known(tmp_path, '[[difference]]\nsuite = "s"\ntests = ["b*"]\nreason = "because"')
    run = run_of(a=PASSED)
    assert compare.compare("s", run, run, entries, never_again).problems == [
        "b*: there is no such test"
    ]
    assert not compare.compare("s", run, run, entries, never_again, whole=False).problems


@pytest.mark.parametrize("mine", [True, False])
def test_a_known_difference_holds_in_its_suite_and_its_pythons_alone(tmp_path, mine):
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = here if mine else "2.7"
    entry = f'[[difference]]\nsuite = "s"\ntests = ["a"]\nreason = "because"\npython = ["{python}"]'
    entries = known(tmp_path, entry)
    control, tested = run_of(a=PASSED, b=PASSED), run_of(a=FAILED, b=PASSED)
    again = always(control, tested)
    assert bool(compare.compare("s", control, tested, entries, again).known) == mine
    assert not compare.compare("other", control, tested, entries, again).known


def test_a_run_without_the_loop_under_test_is_a_problem():
    run = run_of(a=Result("passed"))
    found = compare.compare("s", run, run, [], never_again)
    assert found.problems == ["no test created the loop under test"]


def test_a_test_on_asyncio_s_own_loop_is_a_problem():
    control = run_of(a=PASSED)
    tested = run_of(a=Result("passed", loops=1, stock=1))
    found = compare.compare("s", control, tested, [], never_again)
    assert found.problems == ["a: created asyncio's own loop, not the one tested"]


def test_an_incomplete_run_is_a_problem():
    run = Run({"a": PASSED}, broken="not done after 1 s")
    found = compare.compare("s", run, run, [], never_again)
    assert found.problems == [
        "the run with asyncio is incomplete: not done after 1 s",
        "the run with the loop under test is incomplete: not done after 1 s",
    ]
