"""The demo: a conversation with a server on hybridloop, a comparison of loops, and heavy work."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
import textwrap
from collections.abc import Sequence

from examples.demo import comparison, heavy
from examples.demo.conversation import CHECKS
from examples.demo.load import WrongResponse
from examples.demo.server import ServerError, serve

DEFAULT_LOOPS = ("asyncio", "uvloop", "hybridloop")


def main() -> int:
    arguments = parse_arguments()
    loops: list[str] = arguments.loops
    print(
        f"Python {platform.python_version()}, {versions(loops)}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs\n"
    )
    failures = converse(loops[-1])
    if arguments.rounds and not failures:
        failures += contest(loops, arguments.rounds, arguments.seconds, arguments.connections)
        if "hybridloop" in loops and not failures:
            failures += work(min(arguments.seconds, 2.5))
    if failures:
        print(f"\nFAILED: {failures} of the checks above did not hold.", file=sys.stderr)
        return 1
    print("\nEvery response was right.")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument(
        "--loops",
        type=loop_names,
        default=",".join(DEFAULT_LOOPS),
        metavar="NAME,…",
        help="loops to compare, any of asyncio, uvloop, hybridloop or module:factory; "
        "the conversation is held with the last one (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="how often each loop is measured; 0 leaves the comparison out (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="length of one measurement (default: 3)"
    )
    parser.add_argument(
        "--connections", type=int, default=16, help="keep-alive connections (default: 16)"
    )
    return parser.parse_args()


def loop_names(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        module = name.partition(":")[0]
        if not module or importlib.util.find_spec(module) is None:
            raise argparse.ArgumentTypeError(f"{name!r}: there is no module {module!r}")
    return names


def versions(loops: Sequence[str]) -> str:
    packages = ("uvicorn", *(name.partition(":")[0] for name in loops if name != "asyncio"))
    return ", ".join(map(version, packages))


def version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} (not installed: from the current folder)"


def converse(loop: str) -> int:
    print(f"1. A server on {loop}, and a client in another process")
    failures = 0
    try:
        with serve(loop) as server:
            print(f"  uvicorn listens on {server.url}, process {server.pid}")
            for name, check in CHECKS:
                try:
                    print(f"  ok    {name:<12}  {check(server)}", flush=True)
                except (WrongResponse, OSError, ValueError) as error:
                    failures += 1
                    print(f"  FAIL  {name:<12}  {type(error).__name__}: {error}", flush=True)
            took = server.stop()
            print(f"  ok    {'SIGTERM':<12}  the server ended in order after {took:.2f} s")
    except ServerError as error:
        failures += 1
        print(f"  FAIL  {error}")
    return failures


def contest(loops: Sequence[str], rounds: int, seconds: float, connections: int) -> int:
    print(
        f"\n2. The same application on {', '.join(loops)}\n"
        f"  {connections} keep-alive connections send GET /, GET /json and POST /echo (1 KiB) in "
        f"turn;\n  {rounds} interleaved rounds of {seconds:g} s each"
    )
    try:
        results = comparison.compare(loops, rounds, seconds, connections)
    except (WrongResponse, ServerError, OSError) as error:
        print(f"  FAIL  {type(error).__name__}: {error}")
        return 1
    print()
    print(textwrap.indent(comparison.table(results), "  "))
    print()
    note = f"All {comparison.responses(results):,} responses were checked. {comparison.caveat()}"
    print(textwrap.fill(note, 96, initial_indent="  ", subsequent_indent="  "))
    return 0


def work(seconds: float) -> int:
    print(
        f"\n3. Light requests while heavy ones run, on hybridloop\n"
        f"  {heavy.HEAVY} connections ask for the median of 100,000 numbers, again and again; "
        f"{heavy.LIGHT} others send GET /"
    )
    try:
        results = heavy.compare(seconds)
    except (WrongResponse, ServerError, OSError) as error:
        print(f"  FAIL  {type(error).__name__}: {error}")
        return 1
    print()
    print(textwrap.indent(heavy.table(results), "  "))
    print()
    print(textwrap.fill(heavy.NOTE, 96, initial_indent="  ", subsequent_indent="  "))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
