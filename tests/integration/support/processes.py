"""Servers and scripts in their own process, with their output kept for the assertions."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .loops import LOOP_NAME

APPS = Path(__file__).resolve().parent.parent / "apps"

ERROR_MARKS = ("Traceback", "ERROR", "Exception", "Fatal", "panicked")
"""Words that a log of a server which met no error doesn't hold."""


def subprocess_env(**extra: str) -> dict[str, str]:
    return {
        **os.environ,
        "HYBRIDLOOP_TEST_LOOP": LOOP_NAME,
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


class ServerProcess:
    """A Python process whose standard output and error are gathered line by line."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        prefix: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._closed = False
        self.process = subprocess.Popen(
            [*prefix, sys.executable, *arguments],
            cwd=APPS,
            env=subprocess_env(**(env or {})),
            pass_fds=pass_fds,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        if self.process.poll() is None:
            # The whole group: workers, and what strace has started, end too.
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(60.0)
        self._reader.join(60.0)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_for_line(self, pattern: str, timeout: float = 60.0, start: int = 0) -> re.Match[str]:
        """Return the first match of `pattern` in the output from line `start` on."""
        expression = re.compile(pattern)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for line in self._lines[start:]:
                    if match := expression.search(line):
                        return match
                start = len(self._lines)
                remaining = deadline - time.monotonic()
                if self._closed or remaining <= 0:
                    state = "ended" if self._closed else "timed out"
                    raise AssertionError(f"{state} before {pattern!r}:\n{''.join(self._lines)}")
                self._changed.wait(remaining)

    def wait_for_port(self, pattern: str) -> int:
        """Read the port from the output of a server that starts; end it if it doesn't."""
        try:
            return int(self.wait_for_line(pattern)[1])
        except BaseException:
            ServerProcess.__exit__(self)
            raise

    def line_count(self) -> int:
        with self._changed:
            return len(self._lines)

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for the end of the process and of its output; return the exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self.log}") from None
        self._reader.join(60.0)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 60.0) -> int:
        self.send_signal(number)
        return self.wait(timeout)

    def assert_clean_log(self) -> None:
        found = [mark for mark in ERROR_MARKS if mark in self.log]
        assert not found, f"{found} in log:\n{self.log}"


class ControlledServer(ServerProcess):
    """A script from `apps/` that runs `control.serve`: answers commands with one JSON line each."""

    def __init__(self, script: str, *arguments: str, prefix: Sequence[str] = ()) -> None:
        super().__init__([script, *arguments], prefix=prefix)
        self.port = self.wait_for_port(r"^port (\d+)$")

    def __enter__(self) -> ControlledServer:
        return self

    def ask(self, command: str, timeout: float = 60.0) -> Any:
        start = self.line_count()
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return json.loads(self.wait_for_line(r"^reply (.*)$", timeout, start)[1])

    def quit(self) -> None:
        """End the server the regular way and check that it met no error."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.wait() == 0, self.log
        self.assert_clean_log()


def run_script(
    *arguments: str, timeout: float = 280.0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with `arguments` in `apps/` to its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=APPS,
        env=subprocess_env(**(env or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
