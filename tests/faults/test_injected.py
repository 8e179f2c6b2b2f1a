"""System calls that fail as they hardly ever do: what is seen is what is seen on asyncio."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LOOP_MODULE
from tests.integration.support.strace import unavailable

PROGRAM = Path(__file__).with_name("injected.py")
CASES = [
    ("stream_write", "sendto,sendmsg", "ENOBUFS", 1),
    ("stream_write", "sendto,sendmsg", "ENETDOWN", 1),
    ("stream_read", "recvfrom", "ENOMEM", 1),
    ("stream_read", "recvfrom", "EINTR", 1),
    ("stream_read", "recvfrom", "ETIMEDOUT", 1),
    ("stream_read", "recvfrom", "EHOSTUNREACH", 1),
    ("stream_read", "epoll_wait", "EINTR", 3),
    ("datagrams", "sendto", "ENOBUFS", 1),
    ("datagrams", "sendto", "EINTR", 1),
    ("datagrams", "recvfrom", "ENOMEM", 1),
    ("datagrams", "recvfrom", "EINTR", 1),
    ("accepting", "accept4", "ECONNABORTED", 2),
    ("accepting", "accept4", "EINTR", 2),
    ("accepting", "accept4", "ENOBUFS", 2),
    ("accepting", "accept4", "ENFILE", 1),
    ("accepting", "accept4", "EPROTO", 2),
    ("accepting", "accept4", "EPERM", 1),
    ("sock_methods", "sendto", "ENOBUFS", 1),
    ("sock_methods", "recvfrom", "ENOMEM", 1),
    ("sock_methods", "recvfrom", "EINTR", 1),
]


@pytest.fixture(scope="module", autouse=True)
def _strace():
    if reason := unavailable():
        pytest.skip(reason)


def run(script_env, module, case, calls, error, when):
    done = subprocess.run(
        [
            *("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"),
            *("-e", f"inject={calls}:error={error}:when={when}"),
            *(sys.executable, PROGRAM, module, case),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env=script_env,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return ast.literal_eval(done.stdout)


@pytest.mark.parametrize(("case", "calls", "error", "when"), CASES)
def test_like_asyncio(script_env, case, calls, error, when):
    expected = run(script_env, "asyncio", case, calls, error, when)
    found = run(script_env, LOOP_MODULE, case, calls, error, when)
    assert ("fds left", 0) in found
    # A connection is made in the iteration that accepts it, so before a failure of the next.
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


def test_not_watched(script_env):
    """epoll takes no more sockets: the connection ends, and says why."""
    reports = []
    for when in range(2, 7):
        seen = run(script_env, LOOP_MODULE, "registering", "epoll_ctl", "ENOSPC", when)
        assert ("fds left", 0) in seen
        assert str(seen).count("lost") == 1
        reports.append("No space left on device" in str(seen))
    assert any(reports)
