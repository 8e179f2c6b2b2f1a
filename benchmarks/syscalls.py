"""System calls per request in steady state, counted by strace.

python -m benchmarks.syscalls --loops uvloop,hybridloop --cases streams,sock
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import tempfile
import time
from pathlib import Path

from benchmarks.harness.arguments import choice_of
from benchmarks.harness.cpu import choose_cores
from benchmarks.harness.process import Child, Echo, Unavailable, load, server
from benchmarks.harness.tables import NONE
from benchmarks.harness.tools import require
from benchmarks.loops import LOOPS, REFERENCES, installed, with_variants
from benchmarks.servers import runs

# Case → the server's kind and what the table calls it.
CASES = {
    "protocol": "one write in data_received",
    "two-writes": "two writes in data_received",
    "task": "one write from a task",
    "task-two-writes": "two writes from a task",
    "buffered": "BufferedProtocol, one write",
    "streams": "streams",
    "sock": "sock_recv + sock_sendall",
    "unix": "Unix socket, one write",
    "udp": "datagram",
    "tls": "TLS, one write",
    "tls-streams": "TLS, streams",
}

ATTACH_TIMEOUT = 10.0
RUN_TIMEOUT = 120.0
# Fewer calls than this per request are start and end of the window.
NEGLIGIBLE = 0.01
SUMMARY_LINE = re.compile(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$")

Counts = dict[str, float]


class Tracer(Child):
    """strace attached to all threads of a process."""

    def __init__(self, pid: int, output: Path, core: int):
        super().__init__(["strace", "-f", "-c", "-o", str(output), "-p", str(pid)], core)
        self.output = output
        deadline = time.monotonic() + ATTACH_TIMEOUT
        while "attached" not in self.errors():
            if self.process.poll() is not None:
                raise Unavailable(f"strace: {self.failure()}")
            if time.monotonic() > deadline:
                raise Unavailable("strace does not attach")
            time.sleep(0.02)

    def counts(self) -> dict[str, int]:
        """Detach and return the number of calls by name."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(ATTACH_TIMEOUT)
        lines = self.output.read_text().splitlines()
        matches = filter(None, map(SUMMARY_LINE.match, lines))
        return {match[2]: int(match[1]) for match in matches if match[2] != "total"}


def count(case: str, loop: str, echo: Echo) -> Counts:
    """Return the system calls per request of one loop in one case."""
    assert echo.messages is not None
    server_core, client_core = choose_cores()
    with (
        tempfile.TemporaryDirectory() as folder,
        server(case, loop, server_core) as target,
        load(target.address, echo, client_core) as client,
    ):
        target.cpu_ns()  # settles
        tracer = Tracer(target.pid, Path(folder) / "summary", client_core)
        try:
            client.run(RUN_TIMEOUT)
            target.cpu_ns()
            calls = tracer.counts()
        finally:
            tracer.stop()
    each = {name: number / echo.messages for name, number in calls.items()}
    return {name: number for name, number in each.items() if number >= NEGLIGIBLE}


def describe(counts: Counts) -> str:
    total = sum(counts.values())
    parts = [f"{name} {number:.3g}" for name, number in sorted(counts.items())]
    return f"**{total:.3g}**: {', '.join(parts)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = [*LOOPS, *REFERENCES]
    parser.add_argument("--loops", type=choice_of(everything), default=everything)
    parser.add_argument("--cases", type=choice_of(CASES), default=list(CASES))
    parser.add_argument("--size", type=int, default=1024, help="bytes per request")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--requests", type=int, default=500, help="requests counted")
    parser.add_argument("--warmup", type=int, default=200, help="requests before")
    parser.add_argument(
        "--think-us",
        type=int,
        default=2000,
        help="microseconds between a reply and the next request. strace slows the server, so that "
        "without a pause the next request is there before the loop gets to wait for it.",
    )
    parser.add_argument("--json", type=Path, help="file to write the counts to")
    arguments = parser.parse_args()
    require("strace")
    echo = Echo(
        size=arguments.size,
        connections=arguments.connections,
        warmup=arguments.warmup,
        messages=arguments.requests,
        think_us=arguments.think_us,
    )
    usable, missing = installed([name for name in arguments.loops if name in LOOPS])
    results: dict[str, dict[str, Counts | str]] = {}
    print(f"| {arguments.size} B echo | {' | '.join(CASES[case] for case in arguments.cases)} |")
    print(f"|---|{'---|' * len(arguments.cases)}")
    references = [name for name in arguments.loops if name in REFERENCES]
    for loop in [*with_variants(usable), *references]:
        cells: dict[str, Counts | str] = {}
        for case in arguments.cases:
            if not runs(case, loop):
                cells[case] = NONE
                continue
            try:
                cells[case] = count(case, loop, echo)
            except Unavailable as error:
                cells[case] = f"{NONE} {error}"
        texts = [cell if isinstance(cell, str) else describe(cell) for cell in cells.values()]
        print(f"| {loop} | {' | '.join(texts)} |", flush=True)
        results[loop] = cells
    for loop, reason in missing.items():
        print(f"\n{loop} was skipped: {reason}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
