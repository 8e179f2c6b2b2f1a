"""What a loop has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoopStats:
    """A snapshot of a loop's counters, as `loop.stats()` takes it.

    The counters begin with the loop, are always on, and never go back; subtract two snapshots for
    what happened in between. `dataclasses.asdict()` makes a dictionary of one.
    """

    turns: int
    """Turns of the loop, each of which runs what was ready when it began."""

    callbacks: int
    """Callbacks run: of `call_soon()` and timers, steps of tasks among them, and one for each
    descriptor that became ready."""

    polls: int
    """How often the loop has asked the system for I/O."""

    polls_skipped: int
    """How often a busy loop has put that off; see `poll_skip_interval`."""

    timers: int
    """Timers scheduled now, without those that were cancelled."""

    transports: int
    """Open socket transports now, listening sockets not among them. A TLS connection is one. Pipes
    are not counted."""

    bytes_in: int
    """Bytes received by socket transports, before decryption, and by `sock_recv()` and
    `sock_recv_into()`."""

    bytes_out: int
    """Bytes sent by socket transports, after encryption, and by `sock_sendall()`."""

    longest_turn: float
    """Seconds of the longest turn so far, waiting for I/O left out: no callback has kept the loop
    longer than that. It is told by the turn because a look at the clock for each callback would
    cost more than many a callback does."""

    busy: float
    """The share of the time it has run that the loop did not wait for I/O, from 0.0 to 1.0."""
