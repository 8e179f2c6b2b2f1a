"""The registry's rules."""

import pytest

from . import registry
from .runner import ModuleRun, Result

TEST = "test_locks.LockTests.test_repr"
OTHER = "test_locks.LockTests.test_other"


def run_of(*results):
    run = ModuleRun("test_locks")
    for test_id, outcome in results:
        run.add(Result(test_id, outcome, loops=1))
    return run


def entries(tmp_path, text):
    path = tmp_path / "registry.toml"
    path.write_text(text)
    return registry.read(path)


def nothing(ids):
    raise AssertionError("nothing was to be run")


def judge(run, entries, control=nothing, again=nothing):
    return registry.judge(run, entries, control, again)


@pytest.fixture
def expected(tmp_path):
    return entries(tmp_path, f'[[expected]]\ntests = ["{TEST}"]\nreason = "because"')


def test_the_registry_itself_is_valid():
    assert all(entry.tests and entry.reason for entry in registry.read())


@pytest.mark.parametrize(
    "text",
    [
        '[[expected]]\ntests = ["a"]',
        '[[expected]]\nreason = "because"',
        '[[expected]]\ntests = ["a"]\nreason = " "',
        '[[expected]]\ntests = ["a"]\nreason = "because"\nloop = "x"',
        '[[flaky]]\ntests = ["a"]\nreason = "because"',
        '[[expected]]\ntests = ["a"]\nreason = "because"\npython = "new"',
    ],
)
def test_an_incomplete_registry_is_refused(tmp_path, text):
    with pytest.raises(ValueError):
        entries(tmp_path, text)


@pytest.mark.parametrize("outcome", ["fail", "error"])
def test_an_expected_failure_is_accepted(expected, outcome):
    verdict = judge(run_of((TEST, outcome), (OTHER, "pass")), expected)
    assert verdict.accepted
    assert [result.id for result in verdict.expected] == [TEST]


@pytest.mark.parametrize("outcome", ["pass", "hang", "crash"])
def test_any_other_outcome_of_it_is_not(expected, outcome):
    verdict = judge(run_of((TEST, outcome)), expected)
    assert len(verdict.problems) == 1


@pytest.mark.parametrize("outcome", ["fail", "error", "hang", "crash"])
def test_nothing_else_may_fail(expected, outcome):
    run = run_of((TEST, "fail"), (OTHER, outcome))
    verdict = judge(run, expected)
    assert len(verdict.problems) == 1
    assert verdict.problems[0].startswith(OTHER)


def test_an_entry_must_name_a_test_that_exists(expected):
    verdict = judge(run_of((OTHER, "pass")), expected)
    assert verdict.problems == [f"{TEST}: the registry names a test that does not exist"]


def test_an_entry_may_name_a_test_that_some_patch_releases_lack(tmp_path):
    text = f'[[expected]]\ntests = ["{TEST}"]\nreason = "because"\nnot_in_every = true'
    known = entries(tmp_path, text)
    assert judge(run_of((OTHER, "pass")), known).accepted
    assert not judge(run_of((TEST, "pass")), known).accepted


def test_an_entry_of_another_module_is_left_to_that_module(tmp_path):
    text = '[[expected]]\ntests = ["test_queues.QueueTests.test_x"]\nreason = "because"'
    assert judge(run_of((OTHER, "pass")), entries(tmp_path, text)).accepted


def test_an_entry_of_another_python_counts_for_nothing(tmp_path):
    text = f'[[expected]]\ntests = ["{TEST}"]\nreason = "because"\npython = "<3.11"'
    known = entries(tmp_path, text)
    assert judge(run_of((TEST, "pass")), known).accepted
    assert not judge(run_of((TEST, "fail")), known).accepted


@pytest.mark.parametrize(("stock_outcome", "accepted"), [("fail", True), ("pass", False)])
def test_the_environment_excuses_only_what_stock_asyncio_fails_too(
    tmp_path, stock_outcome, accepted
):
    text = '[[environment]]\ntests = ["test_locks.LockTests.*"]\nreason = "because"'

    def control(ids):
        assert ids == [TEST]
        return run_of((TEST, stock_outcome))

    run = run_of((TEST, "fail"), (OTHER, "pass"))
    verdict = judge(run, entries(tmp_path, text), control)
    assert verdict.accepted is accepted


@pytest.mark.parametrize(
    ("outcome", "passes_at", "accepted"),
    [("fail", 1, True), ("error", 3, True), ("fail", 4, False), ("hang", 0, False)],
)
def test_a_timed_test_is_excused_only_if_it_passes_when_run_again(
    tmp_path, outcome, passes_at, accepted
):
    text = '[[timed]]\ntests = ["test_locks.LockTests.*"]\nreason = "because"'
    tried = []

    def again(ids):
        assert ids == [TEST]
        tried.append(ids)
        return run_of((TEST, "pass" if len(tried) == passes_at else "fail"))

    run = run_of((TEST, outcome), (OTHER, "pass"))
    verdict = judge(run, entries(tmp_path, text), again=again)
    assert verdict.accepted is accepted
    assert len(tried) == min(passes_at, registry.REPEATS)


def test_a_module_that_never_creates_the_loop_proves_nothing():
    run = ModuleRun("test_locks")
    run.add(Result(TEST, "pass"))
    verdict = judge(run, [])
    assert verdict.problems == ["test_locks: no test created the loop under test"]
