"""Kernels on other machines: `run_native()` on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import _requirement as _requirement  # before everything that needs it
from .backend import ClusterRef
from .cluster import Cluster, ClusterStats, ClusterWorker
from .dask_backend import DaskBackend
from .errors import KernelLostError, KernelMismatchError
from .job import ClusterJob, ClusterMap
from .security import TRUSTED
from .tables import ClusterKernel

if TYPE_CHECKING:
    from distributed import Client, Security
    from distributed.deploy.cluster import Cluster as DaskCluster

__all__ = [
    "Cluster",
    "ClusterJob",
    "ClusterKernel",
    "ClusterMap",
    "ClusterRef",
    "ClusterStats",
    "ClusterWorker",
    "KernelLostError",
    "KernelMismatchError",
    "connect",
]


def connect(
    address_or_client: str | Client | DaskCluster,
    libraries: Iterable[str] = (),
    per_worker: int | None = None,
    ping: float | None = 1.0,
    *,
    security: Security | str | None = None,
) -> Cluster:
    """The workers of a Dask cluster, to be used with `async with`.

    Args:
        address_or_client: the address of the scheduler, or an asynchronous `distributed.Client`.
        libraries: kernels that the workers load: paths of libraries, as the workers see them, or
            names of Python modules.
        per_worker: how many calls a worker may have at a time; by default two for each thread.
        ping: seconds between pings. A worker that leaves three without an answer is lost. None
            leaves it to TCP.
        security: Dask's `Security` with TLS. Without it only addresses of this machine are
            accepted, unless this is "trusted network".
    """
    if isinstance(security, str) and security != TRUSTED:
        raise ValueError(
            f"security must be a distributed.Security or {TRUSTED!r}, not {security!r}"
        )
    if ping is not None and not ping > 0:
        raise ValueError(f"ping must be more than 0 seconds, not {ping}")
    trusted = security == TRUSTED
    tls: Any = None if trusted else security
    return Cluster(DaskBackend(address_or_client, tls, trusted, ping), libraries, per_worker)
