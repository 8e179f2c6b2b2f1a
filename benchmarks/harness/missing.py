"""Why a loop is not installed: what pip says."""

from __future__ import annotations

import re
import subprocess
import sys

TIMEOUT = 60.0


def pip_reason(output: str) -> str | None:
    """Return in a few words why pip finds nothing to install; None if it does not say so."""
    wanted = re.findall(r"[\w.]+ Requires-Python ([^;\s]+)", output)
    if wanted:
        return f"needs Python {wanted[-1]}"
    errors = re.findall(r"^ERROR: (.+)$", output, re.MULTILINE)
    return errors[0].strip() if errors else None


def reason(package: str) -> str:
    """Ask pip why a package can't be installed here; it installs nothing."""
    try:
        found = try_install(package)
        if found.returncode:
            return pip_reason(found.stderr) or f"pip ended with status {found.returncode}"
        if try_install(package, "--only-binary", ":all:").returncode:
            return "there is no wheel for this Python, only a source archive"
    except subprocess.TimeoutExpired:
        return "pip has not answered"
    return "it is not installed, although pip could"


def try_install(package: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", *options, package]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT)
