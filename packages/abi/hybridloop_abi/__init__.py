"""The C headers of hybridloop, for builds of extensions and of libraries with kernels."""

from __future__ import annotations

import os

__all__ = ["get_include"]


def get_include() -> str:
    """The directory of `hybridloop.h` and the other headers, for the `-I` option of compilers."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")
