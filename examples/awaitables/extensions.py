"""Building the extensions of these examples.

A project of its own would leave it to setuptools, meson-python or maturin.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

import hybridloop

HERE = Path(__file__).parent


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_c(name: str, *more: str) -> ModuleType:
    """Compile c/NAME.c, with more files, for Python 3.11 and all that follow; import it."""
    include = [hybridloop.get_include(), sysconfig.get_path("include")]
    command = ["cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-pthread"]
    if sys.platform == "darwin":
        command += ["-undefined", "dynamic_lookup"]
    command += ["-DPy_LIMITED_API=0x030B0000", *(f"-I{folder}" for folder in include)]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, f"{name}.so")
        sources = [str(HERE / "c" / f"{source}.c") for source in (name, *more)]
        subprocess.run([*command, "-o", str(library), *sources], check=True)
        return load(library, name)


def build_rust(name: str) -> ModuleType:
    """Build the crate rust/ for Python 3.11 and all that follow; import it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE / "rust" / "target"))
    # Python has the symbols that are missing, and with the limited API it is all one which Python.
    environment = {key: it for key, it in os.environ.items() if key != "PYO3_PYTHON"}
    environment |= {"PYO3_NO_PYTHON": "1", "PYO3_BUILD_EXTENSION_MODULE": "1"}
    if sys.platform == "darwin":
        environment["RUSTFLAGS"] = "-C link-arg=-undefined -C link-arg=dynamic_lookup"
    manifest = HERE / "rust" / "Cargo.toml"
    command = ["cargo", "build", "--release", "--quiet", "--manifest-path", str(manifest)]
    subprocess.run([*command, "--target-dir", str(target)], check=True, env=environment)
    ending = "dylib" if sys.platform == "darwin" else "so"
    return load(target / "release" / f"lib{name}.{ending}", name)
