import os
import signal

import pytest


@pytest.fixture(autouse=True)
def _clean_end(clean_end):
    """Every test here has to end clean."""


@pytest.fixture(autouse=True)
def _no_child_left():
    """Every child is waited for by the loop, and SIGCHLD stays whose it was."""
    handler = signal.getsignal(signal.SIGCHLD)
    yield
    assert signal.getsignal(signal.SIGCHLD) is handler
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
