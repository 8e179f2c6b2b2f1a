"""Fixtures of the tests of the engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hybridloop import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(gil_threads=2, tasks_per_thread=10) as engine:
        yield engine
