import signal

import psutil
import pytest

from tests.support.fixtures import ends_clean

__all__ = ["ends_clean"]


@pytest.fixture(autouse=True)
def _no_child_left():
    """Every child is waited for by the loop, and SIGCHLD stays whose it was."""
    handler = signal.getsignal(signal.SIGCHLD)
    # Other tests may have started servers that serve the whole run, such as multiprocessing's.
    before = set(psutil.Process().children())
    yield
    assert signal.getsignal(signal.SIGCHLD) is handler
    assert set(psutil.Process().children()) <= before
