import os
import socket

import pytest

from tests.support.fixtures import ends_clean

from .support import METHODS

__all__ = ["ends_clean"]


@pytest.fixture
def socket_pair():
    """Two connected non-blocking Unix stream sockets."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    yield read_end, write_end
    for fd in (read_end, write_end):
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.fixture(params=METHODS)
def side(request):
    return METHODS[request.param]
