"""Nothing that a test has left is the next one's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hybridloop import parallel
from hybridloop.parallel.server import registered_servers


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
