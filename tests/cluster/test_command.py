"""The command line of scheduler and workers, and what is said without Dask."""

import subprocess
import sys

import pytest


def run_command(script_env, *arguments):
    command = [sys.executable, "-m", "hybridloop.cluster", *arguments]
    done = subprocess.run(command, env=script_env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [(), ("workers",), ("--worker",)], ids=str)
def test_wrong_arguments(script_env, arguments):
    code, out, usage = run_command(script_env, *arguments)
    assert (code, out) == (2, "")
    assert usage.startswith("usage: python -m hybridloop.cluster scheduler")


def test_help(script_env):
    code, usage, errors = run_command(script_env, "--help")
    assert (code, errors) == (0, "")
    assert usage.startswith("usage: python -m hybridloop.cluster scheduler")


def test_the_options_are_those_of_dask(script_env):
    code, out, _ = run_command(script_env, "worker", "--help")
    assert code == 0
    assert "--nthreads" in out and "--tls-ca-file" in out


def test_without_dask_it_says_what_to_install(run_script):
    source = """
        sys.modules["distributed"] = None
        import hybridloop
        try:
            hybridloop.cluster
        except ImportError as error:
            print(error.name, error)
    """
    said = run_script(source).stdout
    assert said == "distributed hybridloop.cluster needs Dask: pip install 'hybridloop[dask]'\n"
