"""Fixtures of the tests of native kernels."""

import pytest

from hybridloop._core import NativeEngine


@pytest.fixture
def engine():
    """An engine of its own, closed at the end."""
    engine = NativeEngine(native_threads=2)
    yield engine
    assert engine.close(10.0) == []


@pytest.fixture
def bus(engine):
    return engine.bus
