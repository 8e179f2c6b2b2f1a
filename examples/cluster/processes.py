"""A Dask scheduler and workers on this machine, each a process on hybridloop."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class DaskProcesses:
    """What was started. The workers register themselves some time later."""

    address: str
    workers: list[subprocess.Popen[bytes]]


@contextlib.contextmanager
def local_cluster(workers: int, threads: int) -> Iterator[DaskProcesses]:
    """Start a scheduler and workers on loopback; stop them at the end."""
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "scheduler.json"

        def start(what: str, *options: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "hybridloop.cluster", what, *options]
            command += ["--host", "127.0.0.1", "--scheduler-file", str(file)]
            command += ["--no-dashboard"]
            environment = {**os.environ, "DASK_TEMPORARY_DIRECTORY": folder}
            with open(Path(folder) / "log", "ab") as log:
                process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            started.append(process)
            return process

        try:
            scheduler = start("scheduler", "--port", "0", "--dashboard-address", ":0")
            options = ["--no-nanny", "--nthreads", str(threads)]
            those = [start("worker", *options) for _ in range(workers)]
            yield DaskProcesses(_read_address(file, scheduler), those)
        finally:
            for process in reversed(started):
                process.kill()
                process.wait()


def _read_address(file: Path, scheduler: subprocess.Popen[bytes]) -> str:
    """The scheduler writes it when it is ready."""
    while scheduler.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(file.read_text())["address"])
        time.sleep(0.02)
    raise RuntimeError("the scheduler has ended; is distributed installed?")
