"""`python -m hybridloop` runs programs that know nothing of it."""

from __future__ import annotations

import signal
from pathlib import Path

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
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "no_such_script.py" in result.stderr


def test_missing_module() -> None:
    result = run_script("-m", "hybridloop", "-m", "no_such_module")
    assert result.returncode == 2
    assert result.stderr.endswith("No module named no_such_module\n")


@pytest.mark.parametrize("arguments", [[], ["-m"], ["--no-such-option"], ["-c", "pass"]])
def test_usage(arguments: list[str]) -> None:
    result = run_script("-m", "hybridloop", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: python -m hybridloop ")


def test_imports_what_is_beside_the_script(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("answer = 42\n")
    script = tmp_path / "script.py"
    script.write_text("import sys, beside\nprint(beside.answer, sys.path[0])\n")
    link = tmp_path / "elsewhere" / "link.py"
    link.parent.mkdir()
    link.symlink_to(script)
    for path in (script, link):
        result = run_script("-m", "hybridloop", str(path))
        assert (result.stdout, result.stderr) == (f"42 {tmp_path.resolve()}\n", "")


def test_module_that_is_a_server() -> None:
    arguments = ["-m", "hybridloop", "-m", "uvicorn", "asgi_app:app", "--loop", "none"]
    with ServerProcess([*arguments, "--port", "0", "--no-use-colors"]) as server:
        port = server.wait_for_port(r"Uvicorn running on http://[\d.]+:(\d+)")
        with RawConnection(port) as connection:
            assert loop_class_path() in connection.request(get("/describe")).body.decode()
        assert server.stop() in (0, -signal.SIGTERM), server.log
        server.assert_clean_log()
