"""Whatever a program does to its loop, the process lives and the other connections are served.

Each scenario runs in a process of its own, so that an abort is a failure of that scenario alone.
"""

from __future__ import annotations

import ast
from typing import Any

import pytest

from .support.processes import APPS, run_script

DECORATORS = {"case", "async_case"}
IMPROVED = {
    "attributes_of_the_bases",
    "closing_from_within",
    "closing_in_an_iteration_without_a_run",
    "iterations_within_protocols",
    "iterations_within_iterations",
    "writelines_after_abort",
}


def scenarios() -> list[Any]:
    """Script and name of each decorated function."""
    found = []
    for script in (
        "bad_protocols.py",
        "bad_callbacks.py",
        "bad_handles.py",
        "exits.py",
        "lifetimes.py",
    ):
        for node in ast.parse((APPS / script).read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                names = {getattr(decorator, "id", "") for decorator in node.decorator_list}
                if names & DECORATORS:
                    marks = [pytest.mark.improves_on_asyncio] if node.name in IMPROVED else []
                    found.append(pytest.param(script, node.name, marks=marks))
    return found


@pytest.mark.parametrize("debug", ["", "1"], ids=["", "debug"])
@pytest.mark.parametrize(("script", "name"), scenarios(), ids=lambda value: value)
def test_scenario(script: str, name: str, debug: str) -> None:
    # Memory that is freed is overwritten: who uses it fails at once.
    env = {"PYTHONASYNCIODEBUG": debug, "PYTHONMALLOC": "debug"}
    result = run_script(script, name, env=env)
    assert result.returncode == 0, f"exit code {result.returncode}\n{result.stderr}"
    assert result.stdout.endswith("end of scenario\n"), result.stdout + result.stderr
    assert "panicked" not in result.stderr
    assert "Fatal Python error" not in result.stderr
