import pytest

from tests.support.fixtures import ends_clean

__all__ = ["ends_clean"]


@pytest.fixture(autouse=True)
def nothing_left_behind(clean_end):
    """Every test of lookups ends without open descriptors and unexpected log records."""
