"""`python -m hybridloop` runs programs that know nothing of it."""

from __future__ import annotations

import signal

import pytest

from .support.http import RawConnection, get
from .support.loops import LOOP_NAME, loop_class_path
from .support.processes import ServerProcess, run_script

pytestmark = pytest.mark.skipif(LOOP_NAME != "hybridloop", reason="tests hybridloop's command line")


def test_script() -> None:
    result = run_script("-m", "hybridloop", "plain_script.py", "one", "--two")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [loop_class_path(), "line", "one", "--two"]
    assert result.stderr == ""


def test_module() -> None:
    result = run_script("-m", "hybridloop", "-m", "plain_script", "one", "--two")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [loop_class_path(), "line", "one", "--two"]
    assert result.stderr == ""


def test_exit_code() -> None:
    assert run_script("-m", "hybridloop", "plain_script.py", "--exit").returncode == 7


def test_uncaught_exception() -> None:
    result = run_script("-m", "hybridloop", "plain_script.py", "--fail")
    assert result.returncode == 1
    assert result.stderr.rstrip().endswith("LookupError: asked to fail")


def test_missing_script() -> None:
    result = run_script("-m", "hybridloop", "no_such_script.py")
    assert result.returncode not in (0, -signal.SIGABRT, -signal.SIGSEGV)
    assert "no_such_script.py" in result.stderr


def test_module_that_is_a_server() -> None:
    arguments = ["-m", "hybridloop", "-m", "uvicorn", "asgi_app:app", "--loop", "none"]
    with ServerProcess([*arguments, "--port", "0", "--no-use-colors"]) as server:
        port = server.wait_for_port(r"Uvicorn running on http://[\d.]+:(\d+)")
        with RawConnection(port) as connection:
            assert loop_class_path() in connection.request(get("/describe")).body.decode()
        assert server.stop() in (0, -signal.SIGTERM), server.log
        server.assert_clean_log()
