import asyncio
import sys
from contextlib import contextmanager

import pytest

from tests.support.fixtures import ends_clean, opened
from tests.support.streams import Peer, tcp_pair

__all__ = ["ends_clean", "opened"]


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
