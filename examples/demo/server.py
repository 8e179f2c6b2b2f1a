"""Run the demo's application under uvicorn in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from examples.demo.app import app

HOST = "127.0.0.1"
START_TIMEOUT = 30.0
STOP_TIMEOUT = 15.0

# What uvicorn calls each loop. Any other "module:factory" is passed on as it is.
UVICORN_LOOPS = {"hybridloop": "hybridloop:new_event_loop"}


class ServerError(Exception):
    """The server process did not start, or did not stop, as it should."""


class ServerProcess:
    """The parent's side: a running server, its port, and what it wrote to stderr."""

    def __init__(self, loop: str) -> None:
        self.loop = loop
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "examples.demo.server", "--loop", loop],
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=Path(__file__).parents[2],
        )
        try:
            self.port = self._read_port()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def _read_port(self) -> int:
        stdout = self._process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], START_TIMEOUT)
        line = stdout.readline() if ready else b""
        if not line.strip().isdigit():
            reason = "said nothing" if not ready else "ended or printed something else"
            raise ServerError(
                f"the server on {self.loop} {reason} instead of its port\n{self.stderr()}"
            )
        return int(line)

    def stderr(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace").strip()

    def stop(self) -> float:
        """Ask with SIGTERM, as a process manager would; return how long the exit took."""
        started = time.perf_counter()
        self._process.terminate()
        try:
            status = self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise ServerError(
                f"the server on {self.loop} was still there {STOP_TIMEOUT:.0f} s after SIGTERM"
            ) from None
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()
        took = time.perf_counter() - started
        log = self.stderr()
        self._stderr.close()
        # uvicorn shuts down in order and then lets the signal have its usual effect.
        if status not in (0, -signal.SIGTERM):
            raise ServerError(f"the server on {self.loop} ended with status {status}\n{log}")
        if log:
            raise ServerError(f"the server on {self.loop} wrote to stderr:\n{log}")
        return took

    def kill(self) -> None:
        """Leave nothing behind when the demo itself fails."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def serve(loop: str) -> Iterator[ServerProcess]:
    server = ServerProcess(loop)
    try:
        yield server
    finally:
        server.kill()


def main() -> None:
    """The child's side: bind a free port, print it, serve until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo.server", description=__doc__)
    parser.add_argument("--loop", default="hybridloop")
    arguments = parser.parse_args()
    config = uvicorn.Config(
        app,
        loop=UVICORN_LOOPS.get(arguments.loop, arguments.loop),
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
    )
    # asyncio sets TCP_NODELAY only on connections whose listener names its protocol.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, 0))
        # Listening before the port is printed: the kernel holds early clients until uvicorn
        # accepts them.
        listener.listen(1024)
        print(listener.getsockname()[1], flush=True)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
