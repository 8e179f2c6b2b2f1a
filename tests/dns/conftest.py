import pytest


@pytest.fixture(autouse=True)
def nothing_left_behind(clean_end):
    """Every test of lookups ends without open descriptors and unexpected log records."""
