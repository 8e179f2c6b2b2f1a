"""Brings the projects' benchmarks here: from PyPI, from a package, or from a checkout."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
from pathlib import Path


class Unfound(Exception):
    """A project's benchmarks are not here, with the way to get them."""


def from_archive(name: str, part: str, folder: Path) -> Path:
    """Return the unpacked newest source archive of a project; Unfound if it lacks the part."""
    archives = folder / "archives"
    if not (found := sorted(archives.glob(f"{name}-*.tar.gz"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", name, "--dest", str(archives), name]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        found = sorted(archives.glob(f"{name}-*.tar.gz"))
        if result.returncode or not found:
            raise Unfound(f"pip has no source archive of {name}: --source {name}=FOLDER")
    with tarfile.open(found[-1]) as archive:
        if not any(f"/{part}/" in member for member in archive.getnames()):
            raise Unfound(f"its source archive has no {part}: --source {name}=CHECKOUT")
        target = folder / found[-1].name.removesuffix(".tar.gz")
        if not target.exists():
            archive.extractall(folder, filter="data")
    return target


def from_package(name: str, part: str) -> Path:
    """Return the folder of an installed package."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise Unfound(f"pip install {name}")
    folder = Path(spec.origin).parent
    if not (folder / part).is_dir():
        raise Unfound(f"{name} has no {part}")
    return folder


def from_checkout(name: str, part: str, checkout: Path) -> Path:
    if not (checkout / part).is_dir():
        raise Unfound(f"{checkout} has no {part} of {name}")
    return checkout
