"""The command line: `python -m hybridloop app.py …`, `… -m package …` and `… top …`."""

from __future__ import annotations

import runpy
import sys

import hybridloop

_USAGE = """\
usage: python -m hybridloop PROGRAM.py [ARGUMENT ...]
       python -m hybridloop -m MODULE [ARGUMENT ...]
       python -m hybridloop top [PID|URL|PATH] [--once] [--json]

Runs a Python program with hybridloop as the loop of asyncio.run() and asyncio.new_event_loop(),
or shows what the loops of a running program do (top --help tells more). A program whose file is
called just "top" is run as ./top.
"""


def main(argv: list[str]) -> int:
    """Run the program named by `argv`; 2 if there is none."""
    if not argv or argv[0] in ("-h", "--help") or argv == ["-m"]:
        print(_USAGE, end="", file=sys.stdout if argv[:1] in (["-h"], ["--help"]) else sys.stderr)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    if argv[0] == "--version":
        print(f"hybridloop {hybridloop.__version__}")
        return 0
    if argv[0] == "top":
        from .observe.top import main as top

        return top(argv[1:])
    hybridloop.install()
    if argv[0] == "-m":
        sys.argv = argv[1:]
        sys.path.insert(0, "")
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
