"""Rows of echo servers under the load generator."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.process import Echo, load, server
from benchmarks.harness.results import Sample, Settings
from benchmarks.loops import OWN_STREAMS
from benchmarks.servers import SERVERS, runs

KIB = 1024
SIZES = (64, KIB, 10 * KIB, 100 * KIB)
CONNECTIONS = (1, 10, 100)

# The most that one holds over IPv4.
MAX_DATAGRAM = 65_507

WARMUP = 2000
# Large messages warm everything up sooner.
LARGE = 64 * KIB
LARGE_WARMUP = 500
RECONNECT_WARMUP = 200
RECONNECT_AT_A_TIME = 16
TIMEOUT = 30.0


@dataclass(frozen=True)
class EchoGroup:
    """A group of rows: a kind of server, and the loads that it is put under by default."""

    title: str
    kind: str
    # Bytes per message, and connections.
    loads: Sequence[tuple[int, int]]


SMALL = ((KIB, 1), (KIB, 10))
LARGE_LOAD = (100 * KIB, 10)

ECHO_GROUPS = {
    "echo-protocol": EchoGroup("Echo: Protocol", "protocol", (*SMALL, LARGE_LOAD)),
    "echo-buffered": EchoGroup("Echo: BufferedProtocol", "buffered", ((KIB, 10),)),
    "echo-streams": EchoGroup("Echo: streams", "streams", (*SMALL, LARGE_LOAD)),
    "echo-sock": EchoGroup("Echo: sock_recv, sock_sendall", "sock", SMALL),
    "echo-unix": EchoGroup("Echo: Protocol over a Unix socket", "unix", ((KIB, 10),)),
    "echo-udp": EchoGroup("Echo: datagrams over UDP", "udp", SMALL),
    "echo-tls": EchoGroup("Echo: Protocol over TLS 1.3", "tls", SMALL),
    "echo-tls-streams": EchoGroup("Echo: streams over TLS 1.3", "tls-streams", ((KIB, 10),)),
}


def format_size(size: int) -> str:
    return f"{size // KIB} KiB" if size >= KIB and size % KIB == 0 else f"{size} B"


def measure(kind: str, loop: str, echo: Echo, settings: Settings) -> Sample:
    """Take one sample with a fresh server and a fresh client."""
    with (
        server(kind, loop, settings.server_core) as target,
        load(target.address, echo, settings.client_core) as client,
    ):
        before = target.cpu_ns()
        report = client.run(settings.seconds + TIMEOUT)
        spent = target.cpu_ns() - before
    latency = report["latency_ns"]
    return Sample(
        cpu_ns=spent / report["messages"],
        per_second=report["messages_per_second"],
        p50_us=latency["p50"] / 1e3,
        p99_us=latency["p99"] / 1e3,
    )


@dataclass(frozen=True)
class EchoRow:
    """An echo server with standing connections."""

    group: str
    size: int
    connections: int

    @property
    def title(self) -> str:
        noun = "client" if self.group == "echo-udp" else "connection"
        plural = "" if self.connections == 1 else "s"
        return f"{format_size(self.size)}, {self.connections} {noun}{plural}"

    def runs_on(self, loop: str) -> bool:
        return runs(ECHO_GROUPS[self.group].kind, loop)

    def sample(self, loop: str, settings: Settings) -> Sample:
        warmup = WARMUP if self.size < LARGE else LARGE_WARMUP
        echo = Echo(self.size, self.connections, warmup=warmup, seconds=settings.seconds)
        return measure(ECHO_GROUPS[self.group].kind, loop, echo, settings)


@dataclass(frozen=True)
class ConnectRow:
    """Short connections: connect, echo one message, close."""

    kind: str
    title: str
    group: str = "connect"

    def runs_on(self, loop: str) -> bool:
        return loop != OWN_STREAMS and runs(self.kind, loop)

    def sample(self, loop: str, settings: Settings) -> Sample:
        echo = Echo(
            KIB,
            RECONNECT_AT_A_TIME,
            warmup=RECONNECT_WARMUP,
            seconds=settings.seconds,
            reconnect=True,
        )
        return measure(self.kind, loop, echo, settings)


CONNECT_ROWS = [
    ConnectRow("protocol", "TCP"),
    ConnectRow("unix", "Unix socket"),
    ConnectRow("tls", "TLS 1.3, full handshake"),
]


def echo_rows(
    group: str, sizes: Sequence[int] | None, connections: Sequence[int] | None
) -> list[EchoRow]:
    """Return the rows of a group: its own, or each of the sizes with each number of connections."""
    own = ECHO_GROUPS[group]
    is_datagram = SERVERS[own.kind].scheme == "udp"
    loads = own.loads
    if sizes or connections:
        loads = list(
            itertools.product(
                sizes or dict.fromkeys(size for size, _ in own.loads),
                connections or dict.fromkeys(count for _, count in own.loads),
            )
        )
    return [
        EchoRow(group, size, count)
        for size, count in loads
        if size <= MAX_DATAGRAM or not is_datagram
    ]
