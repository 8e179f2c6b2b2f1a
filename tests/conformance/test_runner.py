"""The runner itself, shown on loops that are broken on purpose."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from . import broken_loops, loops, modules, registry, runner
from .__main__ import main

pytestmark = pytest.mark.skipif(
    modules.why_unavailable() is not None, reason=modules.why_unavailable() or ""
)

BROKEN = f"{loops.__package__}.broken_loops"
CASE = "test_sock_lowlevel.SelectEventLoopTests"
BEFORE, USES_SOCK_RECV, AFTER = (
    f"{CASE}.test_create_connection_sock",
    f"{CASE}.test_huge_content",
    f"{CASE}.test_sock_accept",
)


def run(loop, only=(BEFORE, USES_SOCK_RECV, AFTER), timeout=runner.DEFAULT_TIMEOUT):
    return runner.run_module(loop, "test_sock_lowlevel", only=only, timeout=timeout)


def judge(done, entries=()):
    def stock(ids):
        return run("asyncio", ids)

    return registry.judge(done, entries, stock, stock, whole=False)


@pytest.mark.parametrize(
    ("loop", "outcome", "trace", "timeout"),
    [
        ("FailingLoop", "error", "broken on purpose", runner.DEFAULT_TIMEOUT),
        # This much the test takes in any case. A busy machine needs some of it to start a worker.
        ("HangingLoop", "hang", "in sock_recv", 20),
        ("CrashingLoop", "crash", "SIGABRT", runner.DEFAULT_TIMEOUT),
        ("ExitingLoop", "crash", "status 3", runner.DEFAULT_TIMEOUT),
    ],
)
def test_a_broken_loop_costs_only_the_test_that_shows_it(loop, outcome, trace, timeout):
    done = run(f"{BROKEN}:{loop}", timeout=timeout)
    assert {test_id: result.outcome for test_id, result in done.results.items()} == {
        BEFORE: "pass",
        USES_SOCK_RECV: outcome,
        AFTER: "pass",
    }
    assert trace in done.results[USES_SOCK_RECV].detail
    verdict = judge(done)
    assert len(verdict.problems) == 1
    assert USES_SOCK_RECV in verdict.problems[0]


def test_a_sound_loop_passes_and_is_the_one_used():
    done = run("asyncio")
    assert [result.outcome for result in done.results.values()] == ["pass"] * 3
    assert all(result.loops and not result.stock for result in done.results.values())
    assert judge(done).accepted


def test_a_crash_after_the_last_test_is_reported():
    done = run(f"{BROKEN}:CrashingAtExitLoop", only=[BEFORE])
    assert done.results[BEFORE].outcome == "pass"
    assert done.results["test_sock_lowlevel.<exit>"].outcome == "crash"
    assert not judge(done).accepted


def test_an_exception_in_a_finalizer_is_reported():
    done = run(f"{BROKEN}:FinalizerLoop")
    assert any("finalizer broken on purpose" in problem for problem in judge(done).problems)


def test_a_loop_that_cannot_be_made_is_an_error_of_the_module():
    done = run(f"{BROKEN}:no_loop")
    assert list(done.results) == ["test_sock_lowlevel.<module>"]
    assert "no loop today" in judge(done).problems[0]


def test_a_loop_that_hands_its_work_to_the_stock_loop_is_found_out():
    done = run(f"{BROKEN}:BypassedLoop", only=[BEFORE])
    assert done.results[BEFORE].outcome == "pass"
    assert "asyncio's own loop" in judge(done).problems[0]


def test_the_command_tells_failure_by_its_exit_status(capsys):
    arguments = ["--modules", "test_sock_lowlevel", "--tests", BEFORE, USES_SOCK_RECV]
    assert main(["--loop", "asyncio", *arguments]) == 0
    assert "Nothing unexpected" in capsys.readouterr().out
    assert main(["--loop", f"{BROKEN}:FailingLoop", *arguments]) == 1
    assert f"Unexpected: {USES_SOCK_RECV}" in capsys.readouterr().out


def test_the_table_counts_tests_that_create_the_loop(capsys):
    command = ["--table", "--modules", "test_server", "--loop", "asyncio"]
    assert main([*command, "--loop", f"{BROKEN}:FailingLoop"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| Module | Loop | pass | fail | hang | crash | skip |"
    assert [line.split(" | ")[1] for line in lines[2:]] == ["asyncio", f"{BROKEN}:FailingLoop"] * 2


def test_an_unknown_loop_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--loop", "nosuchloop"])
    assert "nosuchloop" in capsys.readouterr().err


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process of its parent's end"
)
def test_a_worker_does_not_outlive_its_parent(monkeypatch):
    loop, test = f"{BROKEN}:ConnectingLoop", USES_SOCK_RECV
    program = f"""
from tests.conformance import runner
runner.run_module({loop!r}, "test_sock_lowlevel", only=[{test!r}], timeout=900)
"""
    root = Path(__file__).parents[2]
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv(broken_loops.PORT, str(server.getsockname()[1]))
        server.settimeout(300)
        with subprocess.Popen([sys.executable, "-c", program], cwd=root) as parent:
            try:
                worker, _ = server.accept()
            finally:
                parent.kill()
    with worker:
        worker.settimeout(60)
        assert worker.recv(1) == b""
