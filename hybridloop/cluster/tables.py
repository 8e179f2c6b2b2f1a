"""The kernels of the workers, which must be the same on all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .._core import Kernel
from ..native.registry import kernels as local_kernels
from .backend import WorkerInfo
from .errors import KernelMismatchError

_BUILT_IN = "hl."

# Signature and description of the kernels of a worker, by name.
_Table = Mapping[str, tuple[str | None, str]]


@dataclass(frozen=True, slots=True)
class ClusterKernel:
    """A kernel that the workers have."""

    name: str
    signature: str | None
    doc: str


class KernelTables:
    """The kernels of each worker that is used."""

    def __init__(self) -> None:
        self.common: dict[str, ClusterKernel] = {}
        """Those that all workers have."""
        self._tables: dict[str, _Table] = {}
        self._uncommon: set[str] = set()
        self._required: set[str] = set()

    def require_built_in(self) -> None:
        """Each worker must have the built-in kernels of this process."""
        self._required = {name for name in local_kernels if name.startswith(_BUILT_IN)}

    def check(self, workers: Sequence[WorkerInfo]) -> None:
        """Raise `KernelMismatchError` for workers that cannot be used.

        Each must have the required kernels and those of the libraries, and no kernel with another
        signature than in this process.
        """
        self._required.update(name for worker in workers for name in worker.required)
        wrong = {}
        for worker in workers:
            problems = [worker.problem] if worker.problem else []
            missing = self._required - worker.kernels.keys()
            if missing and not problems:
                problems.append(f"it lacks {', '.join(sorted(missing))}")
            problems += [
                _other_signature(name, signature, local_kernels[name].signature)
                for name, (signature, _) in worker.kernels.items()
                if name in local_kernels and local_kernels[name].signature != signature
            ]
            if problems:
                wrong[worker.address] = "; ".join(problems)
        if wrong:
            raise KernelMismatchError(wrong)

    def add(self, address: str, table: _Table) -> None:
        """Use a worker."""
        self._tables[address] = table
        self._merge()

    def remove(self, address: str) -> None:
        """Do not use a worker any more. The kernels of the last one stay known."""
        if self._tables.pop(address, None) and self._tables:
            self._merge()

    def find(self, kernel: Kernel | ClusterKernel | str) -> ClusterKernel | None:
        """A kernel that all workers have with the same signature; `None` if there was no worker."""
        name = kernel if isinstance(kernel, str) else kernel.name
        if name in self._uncommon:
            raise KernelMismatchError(self._compare(name))
        if not self.common:
            return None
        found = self.common.get(name)
        if found is None:
            raise LookupError(f"no kernel is named {name!r} on the workers of the cluster")
        if not isinstance(kernel, str) and kernel.signature != found.signature:
            wrong = _other_signature(name, found.signature, kernel.signature)
            raise KernelMismatchError(dict.fromkeys(self._tables, wrong))
        return found

    def _merge(self) -> None:
        tables = list(self._tables.values())
        everything = {name: entry for table in tables for name, entry in table.items()}
        self._uncommon = {
            name
            for name, (signature, _) in everything.items()
            if any(name not in table or table[name][0] != signature for table in tables)
        }
        self.common = {
            name: ClusterKernel(name, *entry)
            for name, entry in everything.items()
            if name not in self._uncommon
        }

    def _compare(self, name: str) -> dict[str, str]:
        """What is wrong with a kernel on the workers that lack it or have it otherwise."""
        has = {address: it[name][0] for address, it in self._tables.items() if name in it}
        (_, expected), *_ = sorted(has.items())
        lacking = dict.fromkeys(self._tables.keys() - has.keys(), f"it lacks {name}")
        return lacking | {
            address: _other_signature(name, signature, expected)
            for address, signature in has.items()
            if signature != expected
        }


def _other_signature(name: str, has: str | None, expected: str | None) -> str:
    return f"{name} has the signature {has!r}, not {expected!r}"
