"""Nothing that a test has left is the next one's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hybridloop import parallel
from hybridloop.parallel import connection_protocol
from hybridloop.parallel.server import registered_servers


@pytest.fixture(autouse=True)
def patient_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of a busy machine is no client that never ends."""
    monkeypatch.setattr(connection_protocol, "_LINGER_TIMEOUT", 30.0)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    for server in registered_servers():
        server.shutdown(0)
    while True:
        try:
            parallel.run()
        except BaseException:
            continue
        break
