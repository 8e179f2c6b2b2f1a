"""Dask's scheduler and workers on hybridloop: `python -m hybridloop.cluster worker ADDRESS`."""

from __future__ import annotations

import sys

from ..launch import run_module

_USAGE = """\
usage: python -m hybridloop.cluster scheduler [OPTION ...]
       python -m hybridloop.cluster worker SCHEDULER [OPTION ...]

Runs `dask scheduler` or `dask worker` on hybridloop, with Dask's options: see
`python -m hybridloop.cluster worker --help`.
"""

_MODULES = {
    "scheduler": "distributed.cli.dask_scheduler",
    "worker": "distributed.cli.dask_worker",
}


def main(argv: list[str]) -> int:
    """Run the command. Returns 2 for wrong arguments."""
    if argv[:1] in (["-h"], ["--help"]):
        print(_USAGE, end="")
        return 0
    if not argv or argv[0] not in _MODULES:
        print(_USAGE, end="", file=sys.stderr)
        return 2
    run_module([_MODULES[argv[0]], *argv[1:]])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
