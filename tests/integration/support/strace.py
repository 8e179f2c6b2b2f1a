"""Counts the system calls that a server's loop makes between two marks."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .loops import wait_until
from .processes import ControlledServer

RECEIVE = ("recvfrom", "recvmsg", "read", "readv")
SEND = ("sendto", "sendmsg", "write", "writev")
CONTROL = ("epoll_ctl", "epoll_ctl_old")
WAIT = ("epoll_wait", "epoll_pwait", "epoll_pwait2", "select", "pselect6", "poll", "ppoll")
ACCEPT = ("accept", "accept4")
MARK = ("access", "faccessat", "faccessat2")

LINE = re.compile(r"^(\d+) +(\w+)\((.*)$")


def unavailable() -> str | None:
    """Why system calls can't be traced here, if so."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = subprocess.run(
        ["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        return f"strace may not trace here: {probe.stderr.strip().splitlines()[-1:]}"
    return None


@dataclass(frozen=True)
class Call:
    name: str
    arguments: str

    @property
    def fd(self) -> int | None:
        # "8, …", or "8 <unfinished ...>" where another thread's call came in between.
        first = re.match(r"\d+", self.arguments)
        return int(first[0]) if first else None


class Trace:
    """The calls of the loop's thread between two marks."""

    def __init__(self, calls: list[Call], connection_fds: set[int]) -> None:
        self.calls = calls
        self.connection_fds = connection_fds

    def on_connections(self, names: tuple[str, ...]) -> list[Call]:
        return [
            call for call in self.calls if call.name in names and call.fd in self.connection_fds
        ]

    def count(self, names: tuple[str, ...]) -> int:
        return sum(call.name in names for call in self.calls)

    def summary(self) -> dict[str, int]:
        return dict(Counter(call.name for call in self.calls).most_common())


class TracedServer(ControlledServer):
    """A server of `apps/` under strace."""

    def __init__(self, directory: Path, script: str, *arguments: str) -> None:
        self.output = directory / "strace.txt"
        names = ",".join(f"?{name}" for name in RECEIVE + SEND + CONTROL + WAIT + ACCEPT + MARK)
        command = ["strace", "-f", "-qq", "-s", "64", "-o", str(self.output)]
        super().__init__(script, *arguments, prefix=[*command, "-e", f"trace={names}"])

    def __enter__(self) -> TracedServer:
        return self

    def mark(self, name: str) -> None:
        self.ask(f"mark {name}")

    def between(self, start: str, end: str) -> Trace:
        """What the thread that made both marks called in between."""
        fds = set(self.ask("connection_fds"))
        self.mark("flushed")
        text = wait_until(lambda: self._complete(), what="the end of the trace")
        matches = [match for line in text.splitlines() if (match := LINE.match(line))]
        opened = [match for match in matches if f'"/mark/{start}"' in match[3]]
        thread = opened[0][1]
        calls = [Call(match[2], match[3]) for match in matches if match[1] == thread]
        marks = [index for index, call in enumerate(calls) if call.name in MARK]
        first = next(index for index in marks if f'"/mark/{start}"' in calls[index].arguments)
        last = next(index for index in marks if f'"/mark/{end}"' in calls[index].arguments)
        return Trace(calls[first + 1 : last], fds)

    def _complete(self) -> str:
        text = self.output.read_text()
        return text if '"/mark/flushed"' in text else ""
