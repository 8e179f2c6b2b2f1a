"""Counters of this package, and figures of the machine."""

from __future__ import annotations

import mmap
import os
import platform
from typing import TYPE_CHECKING

from .activity import active_hogs, active_io_loops
from .runtime import get_runtime
from .server import registered_servers

if TYPE_CHECKING:
    from .transport import Transport

_COUNTERS = (
    "num_children",
    "retired_clients",
    "fd_accept_count",
    "clients_connected",
    "clients_disconnecting",
    "client_connected_count",
    "recvbuf_size",
    "sendbuf_size",
    "send_id",
    "recv_id",
    "ioloops",
    "last_thread_id",
    "this_thread_id",
    "thread_seq_id_bitmap",
    "num_bytes_just_sent",
    "num_bytes_just_received",
    "total_bytes_sent",
    "total_bytes_received",
)


def active_contexts() -> int:
    """The number of submitted functions, servers, clients and connections of servers."""
    runtime = get_runtime()
    with runtime.changed:
        return runtime.outstanding + sum(it.num_children for it in registered_servers())


def cpu_count() -> int:
    """The number of processors."""
    return os.cpu_count() or 1


def sys_stats() -> tuple[tuple[str, object], ...]:
    """Properties of the machine, as pairs of names and values."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = range(cpu_count()) if affinity is None else affinity(0)
    return (
        ("allocation_granularity", mmap.ALLOCATIONGRANULARITY),
        ("cpu_type", platform.machine()),
        ("num_cpus", cpu_count()),
        ("active_cpu_mask", sum(1 << cpu for cpu in cpus)),
        ("page_size", mmap.PAGESIZE),
    )


def socket_stats(transport: Transport) -> tuple[tuple[str, int], ...]:
    """The counters of a server, client or connection, as pairs of names and values."""
    return tuple((name, getattr(transport, name)) for name in _COUNTERS if hasattr(transport, name))


def context_stats() -> tuple[tuple[str, int], ...]:
    """Counters of the activity, as pairs of names and values."""
    return (
        ("active_hogs", active_hogs()),
        ("active_contexts", active_contexts()),
        ("active_io_loops", active_io_loops()),
    )


def memory_stats() -> tuple[tuple[str, int], ...]:
    """The machine's memory: the percentage in use, and numbers of bytes.

    `total_page_file` and `avail_page_file` are the limit for allocations of all programs, and how
    much of it is left. They are known only on Linux.
    """
    total = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
    known = _read_meminfo()
    available = known.get("MemAvailable")
    if available is None:
        try:
            available = os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE
        except (ValueError, OSError):
            return (("total_physical", total),)
    stats = [
        ("load", 100 * (total - available) // total),
        ("total_physical", total),
        ("avail_physical", available),
    ]
    if "CommitLimit" in known:
        limit = known["CommitLimit"]
        stats += [
            ("total_page_file", limit),
            ("avail_page_file", max(0, limit - known["Committed_AS"])),
        ]
    return tuple(stats)


def _read_meminfo() -> dict[str, int]:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = file.readlines()
    except OSError:
        return {}
    # "MemTotal:       16303428 kB"
    parts = [line.split() for line in lines]
    return {part[0].rstrip(":"): int(part[1]) * 1024 for part in parts if len(part) > 1}
