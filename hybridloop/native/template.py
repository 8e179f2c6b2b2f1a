"""Projects with kernels of their own: what `python -m hybridloop kernels --new` writes."""

from __future__ import annotations

import keyword
import sys
from pathlib import Path

LANGUAGES = ("rust", "c")

_TEMPLATES = Path(__file__).parent / "templates"
_NAME = "kernel_template"
"""The name of the project in the templates."""
_SUFFIX = ".in"
"""The files of a template are no code of this package for Python, cargo and linters."""


class ProjectError(Exception):
    """The project cannot be made."""


def make_project(name: str, directory: Path, language: str) -> None:
    """Make a Python package with kernels in a directory that does not exist or is empty."""
    _check_name(name)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ProjectError(f"{str(directory)!r} exists and is not an empty directory")
    for folder in (_TEMPLATES / "common", _TEMPLATES / language):
        for source in sorted(folder.rglob(f"*{_SUFFIX}")):
            path = str(source.relative_to(folder)).removesuffix(_SUFFIX)
            target = directory / path.replace(_NAME, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8").replace(_NAME, name)
            target.write_text(text, encoding="utf-8")


def _check_name(name: str) -> None:
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name):
        raise ProjectError(f"{name!r} is not a name for a Python package, such as 'my_kernels'")
    if name != name.lower() or name.startswith("_"):
        raise ProjectError(f"{name!r}: give a name in lower case that begins with a letter")
    if name in sys.stdlib_module_names or name in ("hybridloop", "hybridloop_abi", "hl"):
        raise ProjectError(f"{name!r} is the name of another package")
