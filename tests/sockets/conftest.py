import socket

import pytest

from tests.support.fixtures import ends_clean
from tests.support.streams import limited

__all__ = ["ends_clean"]


@pytest.fixture
def sockets():
    """Sockets to be closed at the end."""
    opened = []
    yield opened
    for sock in opened:
        sock.close()


@pytest.fixture
def unix_pair(sockets):
    return non_blocking(sockets, limited(*socket.socketpair()))


@pytest.fixture
def tcp_pair(sockets):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return non_blocking(sockets, limited(server, client))


@pytest.fixture(params=["unix", "tcp"])
def pair(request):
    """Two connected stream sockets, non-blocking."""
    return request.getfixturevalue(f"{request.param}_pair")


def non_blocking(sockets, pair):
    sockets.extend(pair)
    for sock in pair:
        sock.setblocking(False)
    return pair
