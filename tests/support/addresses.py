"""Addresses for tests."""

import os
import socket
import tempfile
from contextlib import contextmanager

import pytest


def has_ipv6():
    if not socket.has_ipv6:
        return False
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
HOSTS = ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)]
needs_abstract_names = pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="abstract names of Unix sockets are Linux's"
)


def abstract_name():
    """An unused name for a Unix socket that is no file."""
    return b"\0hybridloop-" + os.urandom(8).hex().encode()


@contextmanager
def unix_folder():
    """A directory for Unix sockets, with a short path: they have about a hundred bytes at most."""
    with tempfile.TemporaryDirectory(prefix="hl", dir="/tmp") as folder:
        yield folder
