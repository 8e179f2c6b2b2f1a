"""What a loop has done and has to do."""

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

    ready: int
    """Callbacks that wait for their turn now."""

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
    """Seconds of the longest turn so far, waiting for I/O left out: no callback has been later
    than that."""

    longest_callback: float
    """Seconds of the longest callback so far. When a turn runs many callbacks of about a
    microsecond, up to eight are timed together: one that is longer is told with its neighbours."""

    running_seconds: float
    """Seconds that the loop has run, waiting for I/O included."""

    busy_seconds: float
    """Seconds of these in which it did not wait for I/O."""

    @property
    def busy(self) -> float:
        """The share of the time it has run that the loop did not wait for I/O, from 0.0 to 1.0."""
        return self.busy_seconds / self.running_seconds if self.running_seconds else 0.0
