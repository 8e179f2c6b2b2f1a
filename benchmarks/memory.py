"""Memory per idle connection of a server, with what the protocol objects take subtracted.

python -m benchmarks.memory --loops uvloop,hybridloop --connections 5000
python -m benchmarks.memory --tls --connections 1000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import resource
import socket
import ssl
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness.arguments import choice_of
from benchmarks.harness.cpu import choose_cores
from benchmarks.harness.process import Child, Unavailable, certificate
from benchmarks.harness.tables import table
from benchmarks.loops import LOOPS, installed, loop_factory
from benchmarks.servers import BACKLOG, listen, settle_allocator, tls_context

# Connections before the measured ones: tables have grown, caches are warm.
WARM_UP = 500
# Connections between two looks at the server: fewer than its queue takes.
BATCH = 250
TIMEOUT = 30.0
# Beside the connections: the interpreter's own descriptors.
SPARE_DESCRIPTORS = 100


class Idle(asyncio.Protocol):
    """The smallest protocol that keeps its transport."""

    __slots__ = ("transport",)

    made = 0
    lost = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        Idle.made += 1

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        Idle.lost += 1


def private_bytes() -> int:
    """Return the memory that is this process's alone."""
    total = 0
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) * 1024
    return total


def answer() -> None:
    """Report for each line on standard input."""
    for _ in sys.stdin:
        gc.collect()
        report = {
            "connections": Idle.made - Idle.lost,
            "bytes": private_bytes(),
            # With the collector's header, as sys.getsizeof() counts.
            "protocol": sys.getsizeof(Idle()),
        }
        print(json.dumps(report), flush=True)


async def serve(listener: socket.socket, tls: ssl.SSLContext | None) -> None:
    port = listener.getsockname()[1]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Idle, sock=listener, ssl=tls, backlog=BACKLOG)
    print(json.dumps({"port": port}), flush=True)
    threading.Thread(target=answer, daemon=True).start()
    await asyncio.Event().wait()
    server.close()


def run_server(loop: str, folder: Path | None) -> None:
    # First: a loop may look at how TLS contexts are made.
    factory = loop_factory(loop)
    tls = tls_context(folder) if folder else None
    settle_allocator()
    with listen("tcp", Path()) as listener, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(listener, tls))


@contextlib.contextmanager
def server(loop: str, core: int, tls: bool) -> Iterator[tuple[Child, int]]:
    command = [sys.executable, "-m", "benchmarks.memory", "--serve", loop]
    if tls:
        command += ["--certificate", certificate().name]
    child = Child(command, core)
    try:
        yield child, json.loads(child.read_line(TIMEOUT))["port"]
    finally:
        child.stop()


def report_with(child: Child, connections: int) -> dict[str, int]:
    """Return the server's report once it has that many connections."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        child.write_line()
        report: dict[str, int] = json.loads(child.read_line(TIMEOUT))
        if report["connections"] == connections:
            return report
        if time.monotonic() > deadline:
            raise Unavailable(f"{report['connections']} of {connections} connections")
        time.sleep(0.002)


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def measure(loop: str, connections: int, tls: bool) -> float:
    """Return bytes per connection in one fresh server process."""
    server_core, _ = choose_cores()
    context = client_context() if tls else None
    with server(loop, server_core, tls) as (child, port), contextlib.ExitStack() as stack:

        def connect(begin: int, end: int) -> dict[str, int]:
            report = {}
            for count in range(begin + 1, end + 1):
                sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
                if context is not None:
                    sock = context.wrap_socket(sock)
                stack.enter_context(sock)
                if count % BATCH == 0 or count == end:
                    report = report_with(child, count)
            return report

        before = connect(0, WARM_UP)
        after = connect(WARM_UP, WARM_UP + connections)
    return (after["bytes"] - before["bytes"]) / connections - after["protocol"]


def raise_descriptor_limit(connections: int) -> None:
    needed = connections + WARM_UP + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            sys.exit(f"{needed} descriptors are needed, and the limit is {hard}: use --connections")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", type=choice_of(LOOPS), default=list(LOOPS))
    parser.add_argument("--connections", type=int, default=2000, help="connections measured")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes per loop")
    parser.add_argument("--tls", action="store_true", help="connections with TLS")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--serve", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--certificate", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.serve:
        run_server(arguments.serve, arguments.certificate)
        return
    raise_descriptor_limit(arguments.connections)
    loops, failures = installed(arguments.loops)
    samples: dict[str, list[float]] = {loop: [] for loop in loops}
    for _ in range(arguments.rounds):
        for loop in loops:
            if loop not in failures:
                try:
                    samples[loop].append(measure(loop, arguments.connections, arguments.tls))
                except Unavailable as error:
                    failures[loop] = str(error)
    body = [
        [loop, f"{statistics.median(values):,.0f}", f"{min(values):,.0f}", f"{max(values):,.0f}"]
        for loop, values in samples.items()
        if loop not in failures
    ]
    body += [[loop, f"n/a: {reason}", "", ""] for loop, reason in failures.items()]
    kind = "TLS" if arguments.tls else "TCP"
    head = [f"{arguments.connections} idle {kind} connections", "bytes each", "least", "most"]
    print("\n".join(table(head, body)))
    if arguments.json:
        report = {"connections": arguments.connections, "tls": arguments.tls, "bytes": samples}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
