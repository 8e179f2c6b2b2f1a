"""Statistics of a loop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoopStats:
    """A snapshot of a loop's counters, as returned by `loop.stats()`.

    Counters start with the loop and only grow; subtract two snapshots to see what happened between
    them. `dataclasses.asdict()` makes a dictionary of a snapshot.
    """

    iterations: int
    """Iterations of the loop. Each one runs the callbacks that were ready when it began."""

    callbacks: int
    """Callbacks that were run: those of `call_soon()` and of timers, which include the steps of
    tasks, and one for each descriptor that became ready."""

    polls: int
    """How often the loop polled the system for I/O."""

    polls_skipped: int
    """How often a busy loop skipped a poll; see `poll_skip_interval`."""

    ready: int
    """Callbacks that are ready to run now."""

    timers: int
    """Timers that are scheduled now and not cancelled."""

    transports: int
    """Socket transports that are open now. Listening sockets and pipes are not counted; a TLS
    connection counts once."""

    bytes_in: int
    """Bytes received by socket transports, before decryption, and by `sock_recv()` and
    `sock_recv_into()`."""

    bytes_out: int
    """Bytes sent by socket transports, after encryption, and by `sock_sendall()`."""

    waiting_functions: int
    """Ordinary functions that wait now in `await_()`."""

    waits: int
    """How often an ordinary function has begun to wait."""

    longest_iteration: float
    """Seconds of the longest iteration, without the time spent waiting for I/O. No callback was
    delayed longer than that."""

    longest_callback: float
    """Seconds of the longest callback. In an iteration that runs many callbacks of about a
    microsecond, up to eight are timed together: a longer one then counts with the others."""

    running_seconds: float
    """Seconds that the loop has run, including the time spent waiting for I/O."""

    busy_seconds: float
    """Seconds that the loop has run, without the time spent waiting for I/O."""

    @property
    def busy(self) -> float:
        """`busy_seconds` as a share of `running_seconds`, from 0.0 to 1.0."""
        return self.busy_seconds / self.running_seconds if self.running_seconds else 0.0

    @property
    def turns(self) -> int:
        """The former name of `iterations`."""
        return self.iterations

    @property
    def longest_turn(self) -> float:
        """The former name of `longest_iteration`."""
        return self.longest_iteration
