"""A protocol that writes down what it sees."""

import asyncio
import os
import sys

import pytest

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="abstract names and SO_PEERCRED are Linux's"
)


class Recorder(asyncio.Protocol):
    def __init__(self):
        self.data = bytearray()
        self.transport = None
        self.ended = False
        self.lost = False
        self.exception = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data

    def eof_received(self):
        self.ended = True

    def connection_lost(self, exc):
        self.lost = True
        self.exception = exc


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


class HalfOpen(Recorder):
    """Answers when the peer has said everything."""

    def eof_received(self):
        super().eof_received()
        self.transport.write(bytes(self.data[::-1]))
        self.transport.write_eof()
        return True


def abstract_name():
    return "\0hybridloop-" + os.urandom(8).hex()
