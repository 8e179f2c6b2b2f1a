"""What the benchmarks ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sysconfig
from pathlib import Path

from benchmarks.loops import version

# Of the cores; a program that has just ended leaves less.
BUSY = 0.5


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def python_build() -> str:
    """Return the version of Python and its compiler, and PGO if its configuration says so.

    Distributions optimise by other means as well, which the configuration does not show.
    """
    flags = sysconfig.get_config_var("CONFIG_ARGS") or ""
    profiled = ", PGO" if "--enable-optimizations" in flags else ""
    name = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{name} ({platform.python_compiler()}{profiled})"


def package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def load_note() -> str | None:
    """Return a note if the machine has other work, with which figures are worth less."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load < BUSY * cores:
        return None
    return f"The machine had other work: its load average was {load:.1f} before the run."


def describe(loops: list[str]) -> dict[str, str]:
    """Return names and values for the head of the report."""
    servers = {name: package_version(name) for name in ("uvicorn", "httptools", "aiohttp")}
    return {
        "CPU": f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "Kernel": f"{platform.system()} {platform.release()}",
        "Python": python_build(),
        "Loops": ", ".join(f"{name} ({version(name)})" for name in loops),
        "Servers": ", ".join(f"{name} {number}" for name, number in servers.items() if number),
    }
