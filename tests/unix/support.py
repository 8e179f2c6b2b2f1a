"""A protocol that keeps its side open, and what is Linux only."""

import sys

import pytest

from tests.support.streams import Recorder

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="abstract names and SO_PEERCRED are Linux's"
)


class HalfOpen(Recorder):
    """Answers when the peer has said everything."""

    def eof_received(self):
        super().eof_received()
        self.transport.write(bytes(self.data[::-1]))
        self.transport.write_eof()
        return True
