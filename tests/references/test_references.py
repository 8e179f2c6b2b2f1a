"""No scenario leaves references behind; each of them works on every Python."""

import subprocess
import sys

import pytest

from . import counting, scenarios

IMPROVED = {"native_jobs"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.improves_on_asyncio] if name in IMPROVED else [])
        for name in scenarios.SCENARIOS
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_scenario_runs(name, loop_factory):
    scenarios.run(name, loop_factory)


def test_what_stays_in_every_round_is_a_leak():
    many = counting.RUNS
    assert counting.is_leak([many, many + 1, many, 3 * many, many])
    assert not counting.is_leak([many, many + 1, 0, many, many])
    assert not counting.is_leak([1] * 5)


@pytest.mark.skipif(not counting.is_available(), reason="needs a debug build of Python")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", scenarios.SCENARIOS)
def test_no_reference_stays(name):
    """In a process of its own: pytest keeps things as well."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.references", name],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
