"""Child processes that serve their statistics.

The private set of servers has to be empty after a test.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hybridloop.metrics import server

# An echo server with a client that never rests, and an engine whose places are taken.
BUSY = """
import asyncio, sys, hybridloop

async def echo(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()

async def main():
    async with await hybridloop.start_server(echo, "127.0.0.1", 0) as server:
        reader, writer = await hybridloop.open_connection(*server.sockets[0].getsockname())
        with hybridloop.Engine(gil_threads=2, tasks_per_thread=3) as engine:
            for _ in range(8):
                engine.spawn(asyncio.sleep(1000))
            await engine.run_native("hl.noop")
            print("ready", flush=True)
            while True:
                writer.write(b"x" * 500)
                await reader.readexactly(500)
                await asyncio.sleep(0.001)

hybridloop.run(main())
"""

Start = Callable[..., "subprocess.Popen[str]"]
Top = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An `XDG_RUNTIME_DIR` of its own, for this process and its children."""
    # The path of a Unix socket may have 100 characters, and pytest's folders have most of these.
    with tempfile.TemporaryDirectory(prefix="hybridloop-", dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.delenv("HYBRIDLOOP_OBSERVE", raising=False)
        yield Path(folder)


@pytest.fixture
def start(script_env: dict[str, str], runtime: Path) -> Iterator[Start]:
    """Start a program and wait until it prints `ready`."""
    with contextlib.ExitStack() as stack:

        def start(source: str = BUSY, *arguments: str, **env: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(source), *arguments],
                stdout=subprocess.PIPE,
                stdin=subprocess.PIPE,
                text=True,
                env={**script_env, **os.environ, "HYBRIDLOOP_OBSERVE": "1", **env}
                | {"PYTHONPATH": script_env["PYTHONPATH"]},
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            return process

        yield start


@pytest.fixture
def top(script_env: dict[str, str], runtime: Path) -> Top:
    """Run `python -m hybridloop top`."""

    def top(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hybridloop", "top", *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            env={**script_env, "XDG_RUNTIME_DIR": str(runtime), "COLUMNS": "100", **env},
        )

    return top


@pytest.fixture(autouse=True)
def nobody_serves() -> Iterator[None]:
    yield
    left = list(server._servers)
    for it in left:
        it.close()
    assert not left
