"""The names of the metrics for Prometheus.

`hybridloop.metrics.prometheus` uses these tables to make samples of a snapshot, and `top` to make a
snapshot of samples. Names are without the suffix `_total` of counters. The labels are `loop` and
`thread`, or `engine` and `thread`; the engine of loops outside of engines is `default`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BUS", "ENGINE", "LOOP", "NATIVE", "RUNNING", "TASKS", "THREAD", "Metric"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One field of a statistics dataclass as a metric."""

    field: str
    name: str
    help: str
    counter: bool = False
    outcome: str | None = None
    """The value of the label `outcome`, for a metric that several fields share."""

    @property
    def sample(self) -> str:
        """The name of the samples."""
        return f"{self.name}_total" if self.counter else self.name

    def parse(self, value: float) -> float:
        """The value of the field for the value of a sample."""
        return value if self.name.endswith("_seconds") else int(value)


LOOP = (
    Metric("iterations", "hybridloop_loop_iterations", "Iterations of the loop.", True),
    Metric("callbacks", "hybridloop_loop_callbacks", "Callbacks run.", True),
    Metric("polls", "hybridloop_loop_polls", "Polls for I/O.", True),
    Metric(
        "polls_skipped",
        "hybridloop_loop_polls_skipped",
        "Polls for I/O that a busy loop skipped.",
        True,
    ),
    Metric("ready", "hybridloop_loop_ready_callbacks", "Callbacks that are ready to run."),
    Metric("timers", "hybridloop_loop_timers", "Scheduled timers."),
    Metric("transports", "hybridloop_loop_transports", "Open socket transports."),
    Metric(
        "bytes_in",
        "hybridloop_loop_received_bytes",
        "Bytes received by socket transports and sock_recv().",
        True,
    ),
    Metric(
        "bytes_out",
        "hybridloop_loop_sent_bytes",
        "Bytes sent by socket transports and sock_sendall().",
        True,
    ),
    Metric(
        "waiting_functions",
        "hybridloop_loop_waiting_functions",
        "Ordinary functions that wait in await_().",
    ),
    Metric(
        "waits",
        "hybridloop_loop_waits",
        "Times that an ordinary function has begun to wait.",
        True,
    ),
    Metric(
        "longest_iteration",
        "hybridloop_loop_longest_iteration_seconds",
        "The longest iteration, without the time spent waiting for I/O.",
    ),
    Metric(
        "longest_callback",
        "hybridloop_loop_longest_callback_seconds",
        "The longest callback.",
    ),
    Metric(
        "running_seconds",
        "hybridloop_loop_running_seconds",
        "Time that the loop has run, including waiting for I/O.",
        True,
    ),
    Metric(
        "busy_seconds",
        "hybridloop_loop_busy_seconds",
        "Time that the loop has run, without waiting for I/O.",
        True,
    ),
)

RUNNING = Metric("running", "hybridloop_loop_running", "1 while the loop runs.")
TASKS = Metric("tasks", "hybridloop_loop_tasks", "asyncio tasks that are not done.")

THREAD = (
    Metric(
        "running",
        "hybridloop_engine_thread_running_tasks",
        "Spawned tasks that run on the thread.",
    ),
    Metric(
        "pending",
        "hybridloop_engine_thread_pending_tasks",
        "Spawned tasks that wait for this thread only.",
    ),
    Metric(
        "failed",
        "hybridloop_engine_thread_failed",
        "1 if the loop of the thread has failed.",
    ),
)

ENGINE = (
    Metric(
        "tasks_per_thread",
        "hybridloop_engine_thread_task_limit",
        "The largest number of spawned tasks that a thread runs at a time.",
    ),
    Metric("spawned", "hybridloop_engine_spawned_tasks", "Spawned tasks.", True),
    Metric(
        "pending",
        "hybridloop_engine_pending_tasks",
        "Spawned tasks that wait for a thread, in total.",
    ),
    Metric(
        "max_pending",
        "hybridloop_engine_pending_task_limit",
        "The largest number of waiting tasks.",
    ),
)

NATIVE = (
    Metric("workers", "hybridloop_native_workers", "Threads that run kernels."),
    Metric("busy", "hybridloop_native_busy_workers", "Workers that run a kernel."),
    Metric("queued", "hybridloop_native_queued_jobs", "Jobs that wait for a worker."),
    Metric(
        "pending",
        "hybridloop_native_pending_jobs",
        "Jobs that wait for the completion of their tokens.",
    ),
    Metric("done", "hybridloop_native_jobs", "Jobs that have ended.", True, "done"),
    Metric("failed", "hybridloop_native_jobs", "Jobs that have ended.", True, "failed"),
    Metric("cancelled", "hybridloop_native_jobs", "Jobs that have ended.", True, "cancelled"),
    Metric(
        "memory",
        "hybridloop_native_memory_bytes",
        "Bytes of results and of blocks on the bus that are in use.",
    ),
)

BUS = (
    Metric("keys", "hybridloop_bus_keys", "Keys on the bus."),
    Metric("bytes", "hybridloop_bus_bytes", "Bytes on the bus."),
    Metric("capacity", "hybridloop_bus_capacity_bytes", "The largest number of bytes on the bus."),
    Metric("writes", "hybridloop_bus_writes", "Blocks put on the bus.", True),
    Metric("reads", "hybridloop_bus_reads", "Reads that found their key.", True),
    Metric("evictions", "hybridloop_bus_evictions", "Blocks evicted to make space.", True),
    Metric(
        "refused",
        "hybridloop_bus_refused_calls",
        "Calls from Python rejected because a kernel was writing the key.",
        True,
    ),
)
