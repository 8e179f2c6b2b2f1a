"""Running a suite: which loop its tests get, and what is kept of each test."""

import sys
import textwrap
from pathlib import Path

import pytest

from . import running
from .table import Suite

OURS = "hybridloop:new_event_loop"


@pytest.fixture
def run(tmp_path):
    """Run a suite of one module with the loop named."""

    def run(source, loop=OURS, *, limit=300.0, only=None, processes=0):
        tests = tmp_path / "tests"
        tests.mkdir(exist_ok=True)
        (tests / "__init__.py").touch()
        (tests / "test_fake.py").write_text(textwrap.dedent(source))
        suite = Suite("fake", "fake", processes=processes)
        return running.run(suite, Path(sys.executable), tmp_path, loop, limit=limit, only=only)

    return run


LOOPS = """
    import asyncio
    import unittest
    import pytest

    WAYS = {
        "run": lambda: asyncio.run(running()),
        "Runner": lambda: with_runner(),
        "new_event_loop": lambda: asyncio.new_event_loop(),
        "SelectorEventLoop": lambda: asyncio.SelectorEventLoop(),
    }
    if hasattr(asyncio, "EventLoop"):
        WAYS["EventLoop"] = lambda: asyncio.EventLoop()

    async def running():
        return asyncio.get_running_loop()

    def with_runner():
        with asyncio.Runner() as runner:
            return runner.get_loop()

    @pytest.mark.parametrize("way", WAYS)
    def test_loop(way):
        loop = WAYS[way]()
        loop.close()
        assert type(loop).__module__.startswith("hybridloop") == UNDER_TEST

    class TestCase(unittest.IsolatedAsyncioTestCase):
        async def test_loop(self):
            assert type(await running()).__module__.startswith("hybridloop") == UNDER_TEST
"""


@pytest.mark.parametrize("loop", ["", OURS])
def test_every_way_to_a_default_loop_gives_the_loop_asked_for(run, loop):
    outcome = run(LOOPS.replace("UNDER_TEST", str(bool(loop))), loop)
    assert not outcome.broken
    assert outcome.count("passed") == len(outcome.results) >= 5
    loops = [(result.loops, result.stock) for result in outcome.results.values()]
    assert set(loops) == {(1, 0) if loop else (0, 0)}


OUTCOMES = """
    import pytest

    @pytest.fixture
    def broken():
        raise OSError("in the fixture")

    def test_passed(): pass
    def test_failed(): assert 1 == 2
    def test_error(broken): pass
    def test_skipped(): pytest.skip("no")
    @pytest.mark.xfail
    def test_xfailed(): assert 0
    @pytest.mark.xfail
    def test_xpassed(): pass
"""


@pytest.mark.parametrize("processes", [0, 2])
def test_each_test_s_outcome_is_kept(run, processes):
    if processes:
        pytest.importorskip("xdist")
    outcome = run(OUTCOMES, processes=processes)
    assert not outcome.broken
    found = {test: result.outcome for test, result in outcome.results.items()}
    names = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
    assert found == {f"tests/test_fake.py::test_{name}": name for name in names}
    assert "assert 1 == 2" in outcome.results["tests/test_fake.py::test_failed"].detail


def test_a_module_that_cannot_be_imported_is_an_error(run):
    outcome = run("import no_such_module")
    assert outcome.broken
    assert outcome.results["tests/test_fake.py"].outcome == "error"


def test_some_tests_can_be_run_by_their_ids(run):
    ids = ["tests/test_fake.py::test[a b]", "tests/test_fake.py::test[c::d]"]
    outcome = run(
        """
        import pytest

        @pytest.mark.parametrize("value", ["a b", "c::d", "e"])
        def test(value): pass
        """,
        only=ids,
    )
    assert list(outcome.results) == ids


CRASH = """
    import os, signal
    def test_before(): pass
    def test_crash(): os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_crash_is_the_outcome_of_its_test(run):
    outcome = run(CRASH)
    assert outcome.broken.startswith("pytest ended with -9")
    found = [result.outcome for result in outcome.results.values()]
    assert found == ["passed", "crash"]


def test_a_run_ends_at_its_limit(run):
    # As long as a busy machine takes to begin the test.
    for limit in (4, 16, 64):
        outcome = run("import time\ndef test_hang(): time.sleep(600)", limit=limit)
        assert outcome.broken.startswith(f"not done after {limit} s")
        if outcome.results:
            break
    assert outcome.results["tests/test_fake.py::test_hang"].outcome == "hang"
