"""greenlet, which is not installed with hybridloop itself."""

from __future__ import annotations


def check() -> None:
    """Raise an `ImportError` that says what to install."""
    try:
        import greenlet  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "hybridloop.await_ and hybridloop.sync need greenlet: pip install 'hybridloop[sync]'",
            name="greenlet",
        ) from error


check()
