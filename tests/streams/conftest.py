import asyncio
import sys
from contextlib import contextmanager

import pytest

from tests.transports.support import Peer, tcp_pair


@pytest.fixture(autouse=True)
def _clean_end(clean_end):
    """Every test here has to end clean."""


@pytest.fixture
def opened(loop):
    """Writers and peers to be closed when the test is over."""
    things = []
    yield things
    for thing in things:
        if isinstance(thing, Peer):
            thing.close()
        elif thing.get_extra_info("socket").fileno() != -1 and not loop.is_closed():
            thing.transport.abort()
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def connect(loop, opened):
    """``reader, writer, peer = await connect()`` with a raw socket at the other end."""

    async def connect(open_connection=asyncio.open_connection, **options):
        ours, theirs = tcp_pair()
        peer = Peer(theirs)
        opened.append(peer)
        reader, writer = await open_connection(sock=ours, **options)
        opened.append(writer)
        return reader, writer, peer

    return connect


@contextmanager
def python_calls():
    """Names of the Python functions that are called meanwhile."""
    names = set()

    def note(frame, event, argument):
        if event == "call":
            names.add(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield names
    finally:
        sys.setprofile(before)
