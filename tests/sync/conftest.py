"""Tests run on hybridloop, in its debug mode, and on a selector loop of asyncio, prepared."""

import asyncio
import subprocess
import sys

import pytest

from tests.conftest import LOOP_MODULE, shut_down, turned_off
from tests.support.certificates import authority, client_context, server_context
from tests.support.fixtures import connect, connect_tcp, ends_clean, make_pair, opened

__all__ = [
    "authority",
    "client_context",
    "connect",
    "connect_tcp",
    "ends_clean",
    "make_pair",
    "opened",
    "server_context",
]

pytest.importorskip("greenlet", reason="needs greenlet, which has no release for this Python")

from hybridloop import Loop, sync

if LOOP_MODULE == "asyncio":
    pytest.skip("these tests choose their loops themselves", allow_module_level=True)


from hybridloop.sync.tasks import KNOWS_NATIVE_TASKS

# Without that optimisation, functions wait in callbacks only, as one test of its own shows.
collect_ignore_glob = [] if KNOWS_NATIVE_TASKS or not turned_off("task_fields") else ["test_*.py"]

KINDS = ["hybridloop", "debug", "asyncio"]


def make_loop(kind):
    if kind == "asyncio":
        loop = asyncio.SelectorEventLoop()
        sync.prepare(loop)
    else:
        loop = Loop()
        loop.cork_interval = 60  # a busy machine is no fault of a test
    loop.slow_callback_duration = 10
    loop.set_debug(kind == "debug")
    return loop


def pytest_generate_tests(metafunc):
    if "loop" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only")
        metafunc.parametrize("loop", only.args if only else KINDS, indirect=True)


@pytest.fixture
def loop(request):
    loop = make_loop(request.param)
    try:
        yield loop
    finally:
        if not loop.is_closed():
            try:
                shut_down(loop)
            finally:
                loop.close()
        assert sync.waiting() == []


@pytest.fixture
def run_program():
    """Run a program in a process of its own, and return what it prints."""

    def run(source, *, code=0, errors="", timeout=300):
        done = subprocess.run(
            [sys.executable, "-c", source], capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == code, done.stderr
        if errors is not None:
            assert done.stderr == errors
        return done.stdout

    return run
