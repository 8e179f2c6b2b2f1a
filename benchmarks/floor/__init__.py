"""The floor: an epoll loop in C that drives an ``asyncio.Protocol`` (see ``floor.c``)."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
SOURCE = HERE / "floor.c"
FLAGS = ["-O2", "-g", "-shared", "-fPIC", "-Wall", "-Wextra", "-Wno-unused-parameter"]
FLAGS += ["-Wno-missing-field-initializers", "-Wno-cast-function-type"]


def build() -> Path:
    """Compile the extension for the running Python unless that is done already."""
    suffix: str = sysconfig.get_config_var("EXT_SUFFIX")
    target = HERE / "build" / f"floor{suffix}"
    if target.exists() and target.stat().st_mtime >= SOURCE.stat().st_mtime:
        return target
    target.parent.mkdir(exist_ok=True)
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run([*compiler, *FLAGS, include, str(SOURCE), "-o", str(fresh)], check=True)
    fresh.replace(target)
    return target


def load() -> ModuleType:
    """Import the extension, compiled on demand."""
    path = build()
    spec = importlib.util.spec_from_file_location("floor", path)
    if spec is None or spec.loader is None:
        sys.exit(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
