"""Fixtures and limits of the integration tests."""

from __future__ import annotations

import resource
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from .support.loops import LOOP_NAME

HERE = Path(__file__).resolve().parent
TEST_TIMEOUT = 300
NEEDED_FDS = 4096


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "improves_on_asyncio: asks for more than stock asyncio does")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if HERE not in item.path.parents:
            continue
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT))
        if LOOP_NAME != "hybridloop" and item.get_closest_marker("improves_on_asyncio"):
            item.add_marker(pytest.mark.xfail(reason=f"{LOOP_NAME} does less", strict=False))


@pytest.fixture(scope="session", autouse=True)
def _enough_file_descriptors() -> Iterator[None]:
    """Raise the soft limit for the tests with 1,000 connections and both ends in one process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= NEEDED_FDS:
        yield
        return
    wanted = NEEDED_FDS if hard == unlimited else min(NEEDED_FDS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass(frozen=True)
class Certificate:
    """A server certificate for localhost and 127.0.0.1, and the contexts of both sides."""

    cert_file: str
    key_file: str
    authority_file: str
    server_context: ssl.SSLContext
    client_context: ssl.SSLContext


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    authority_file = directory / "authority.pem"
    issued.private_key_pem.write_to_path(str(key_file))
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(str(cert_file), append=number > 0)
    authority.cert_pem.write_to_path(str(authority_file))
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issued.configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    return Certificate(
        str(cert_file), str(key_file), str(authority_file), server_context, client_context
    )
