"""`build_info()`: how the package was built and which of its optional parts are in use."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from typing import TypedDict

from ._core import TlsCore, __version__, _unstable


class BuildInfo(TypedDict):
    """What `build_info()` returns; every value can be written as JSON."""

    hybridloop: str
    """Version of the package."""

    python: str
    """Version of Python, such as `"3.14.10"`."""

    free_threaded: bool
    """Whether this Python was built without a global interpreter lock."""

    platform: str
    """Such as `"linux-x86_64"`."""

    openssl: str | None
    """Version text of the OpenSSL that Python's `ssl` uses; `None` without `ssl`."""

    safe: str
    """The value of `HYBRIDLOOP_SAFE` in the environment, `""` if there is none."""

    unstable: dict[str, bool]
    """Which of the optimisations that depend on private memory of CPython are on."""


def build_info() -> BuildInfo:
    """How the package was built and what it uses of this Python, for reports of faults."""
    openssl = None
    try:
        import ssl
    except ImportError:
        pass
    else:
        openssl = ssl.OPENSSL_VERSION
        # Otherwise probed at the first TLS connection.
        TlsCore._is_available()
    return {
        "hybridloop": __version__,
        "python": platform.python_version(),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "platform": f"{sys.platform}-{platform.machine()}",
        "openssl": openssl,
        "safe": os.environ.get("HYBRIDLOOP_SAFE", ""),
        "unstable": _unstable(),
    }
