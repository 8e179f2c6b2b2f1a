import asyncio
import contextlib
import os
import pty
import socket
import tty

import pytest

from tests.support.fixtures import ends_clean
from tests.support.streams import Recorder

__all__ = ["ends_clean"]


def pipe(tmp_path):
    return os.pipe()


def fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(path, os.O_WRONLY)
    return reading, writing


def socket_pair(tmp_path):
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def terminal(tmp_path):
    master, slave = pty.openpty()
    tty.setraw(slave)
    return master, slave


@pytest.fixture(params=[pipe, fifo, socket_pair], ids=["pipe", "fifo", "socket"])
def ends(request, tmp_path):
    """The descriptors of a reading and a writing end; what is left open is closed afterwards."""
    pair = request.param(tmp_path)
    yield pair
    for fd in pair:
        # A transport closes its descriptor.
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.fixture
def pseudo_terminal(tmp_path):
    pair = terminal(tmp_path)
    yield pair
    for fd in pair:
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.fixture
def transports(loop):
    """Transports to be aborted when the test is over."""
    things = []
    yield things
    if not loop.is_closed():
        for transport in things:
            if not transport.is_closing():
                getattr(transport, "abort", transport.close)()
        for _ in range(3):
            loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def connect_read(loop, transports):
    async def connect_read(fd, protocol=None):
        file = os.fdopen(fd, "rb", 0)
        transport, protocol = await loop.connect_read_pipe(lambda: protocol or Recorder(), file)
        transports.append(transport)
        return transport, protocol

    return connect_read


@pytest.fixture
def connect_write(loop, transports):
    async def connect_write(fd, protocol=None):
        file = os.fdopen(fd, "wb", 0)
        transport, protocol = await loop.connect_write_pipe(lambda: protocol or Recorder(), file)
        transports.append(transport)
        return transport, protocol

    return connect_write
