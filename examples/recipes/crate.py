"""Builds and loads the crate rust/ with the kernels of these recipes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hybridloop

CRATE = Path(__file__).parent / "rust"


def load() -> None:
    target = Path(os.environ.get("CARGO_TARGET_DIR", CRATE / "target"))
    manifest = CRATE / "Cargo.toml"
    command = ["cargo", "build", "--release", "--quiet", "--manifest-path", str(manifest)]
    subprocess.run([*command, "--target-dir", str(target)], check=True)
    ending = "dylib" if sys.platform == "darwin" else "so"
    hybridloop.load_kernels(target / "release" / f"librecipes.{ending}", replace=True)
