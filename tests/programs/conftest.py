"""Fixtures of the programs: the servers they talk to, each started once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..integration.conftest import Certificate, _enough_file_descriptors, certificate
from .servers import PostgreSQL, Redis, postgresql_program, redis_program

__all__ = ("_enough_file_descriptors", "certificate")

HERE = Path(__file__).resolve().parent
TEST_TIMEOUT = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT))


@pytest.fixture(scope="session")
def redis_server(certificate: Certificate) -> Iterator[Redis]:
    with Redis(redis_program(), certificate) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_server(certificate: Certificate) -> Iterator[PostgreSQL]:
    with PostgreSQL(postgresql_program(), certificate) as server:
        yield server
