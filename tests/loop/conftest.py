import socket

import pytest


@pytest.fixture(autouse=True)
def _clean_end(clean_end):
    """Every test here has to end clean."""


@pytest.fixture
def socket_pair():
    """Two connected non-blocking Unix stream sockets."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()
