"""The command line: `python -m hybridloop app.py …`, `… -m package …`, `… top` and `… kernels`."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import hybridloop

_USAGE = """\
usage: python -m hybridloop PROGRAM.py [ARGUMENT ...]
       python -m hybridloop -m MODULE [ARGUMENT ...]
       python -m hybridloop top [PID|URL|PATH] [--once] [--json]
       python -m hybridloop kernels [NAME ...] [--run] [--stubs]

Runs a Python program with hybridloop as the loop of asyncio.run() and asyncio.new_event_loop(),
shows the loops of a running program (see top --help), or lists, describes and runs native kernels
(see kernels --help). To run a program whose file is named "top" or "kernels", write ./top.
"""


def main(argv: list[str]) -> int:
    """Run the command. Returns 2 for wrong arguments."""
    if argv[:1] in (["-h"], ["--help"]):
        print(_USAGE, end="")
        return 0
    if argv[:1] == ["--version"]:
        print(f"hybridloop {hybridloop.__version__}")
        return 0
    if not argv or argv == ["-m"] or (argv[0].startswith("-") and argv[0] != "-m"):
        print(_USAGE, end="", file=sys.stderr)
        return 2
    if argv[0] == "top":
        from .metrics.top import main as top

        return top(argv[1:])
    if argv[0] == "kernels":
        from .native.command import main as kernels

        return kernels(argv[1:])
    if argv[0] == "-m":
        return _run_module(argv[1:])
    return _run_file(argv)


def _run_module(argv: list[str]) -> int:
    if "." not in argv[0] and find_spec(argv[0]) is None:
        return _fail(f"No module named {argv[0]}")
    from .launch import run_module

    run_module(argv)
    return 0


def _run_file(argv: list[str]) -> int:
    path = argv[0]
    if not os.path.exists(path):
        return _fail(f"can't open file {os.path.abspath(path)!r}: no such file")
    from .launch import run_file

    run_file(argv)
    return 0


def _fail(message: str) -> int:
    print(f"{sys.executable} -m hybridloop: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
