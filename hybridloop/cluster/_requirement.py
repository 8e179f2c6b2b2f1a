"""Dask, which is not installed with hybridloop itself."""

from __future__ import annotations


def check() -> None:
    """Raise an `ImportError` that says what to install."""
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "hybridloop.cluster needs Dask: pip install 'hybridloop[dask]'", name="distributed"
        ) from error


check()
