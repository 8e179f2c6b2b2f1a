"""Running the examples as a user does, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_example():
    """Run a module, which has to end well and without a word on stderr; give its lines."""

    def run_example(module, *arguments, timeout=300.0, **environment):
        outcome = subprocess.run(
            [sys.executable, "-W", "always::ResourceWarning", "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert (outcome.returncode, outcome.stderr) == (0, ""), outcome
        return outcome.stdout.splitlines()

    return run_example
