"""Programs the benchmarks need: built from this repository, or found on the PATH."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

MANIFEST = Path(__file__).resolve().parents[1] / "loadgen" / "Cargo.toml"

# A folder of prebuilt loadgen binaries, for machines without cargo.
PREBUILT = "LOADGEN_BIN"


@functools.cache
def rust_binary(name: str) -> Path:
    """Return a binary of the loadgen crate, built if need be."""
    prebuilt = os.environ.get(PREBUILT)
    return Path(prebuilt) / name if prebuilt else build_loadgen()[name]


@functools.cache
def build_loadgen() -> dict[str, Path]:
    if shutil.which("cargo") is None:
        sys.exit(f"cargo is needed to build the load generator, or set {PREBUILT} to its folder")
    command = ["cargo", "build", "--release", "--manifest-path", str(MANIFEST)]
    command += ["--message-format", "json-render-diagnostics"]
    result = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit("the load generator does not build")
    messages = map(json.loads, result.stdout.splitlines())
    return {
        message["target"]["name"]: Path(message["executable"])
        for message in messages
        if message["reason"] == "compiler-artifact" and message["executable"]
    }


def program(name: str) -> str | None:
    """Return the path of an installed program."""
    return shutil.which(name)


def require(name: str) -> None:
    """Exit with a message unless a program is installed."""
    if program(name) is None:
        sys.exit(f"{name} is needed; on Debian: apt install {name}")
