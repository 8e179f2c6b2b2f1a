"""`python -m hybridloop top`: a live view of the loops of another process."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from typing import TYPE_CHECKING

from .client import ProcessEnded, SourceError, open_source

if TYPE_CHECKING:
    from rich.console import Console

    from .client import Source
    from .snapshot import ProcessStats

__all__ = ["main"]

_DESCRIPTION = """\
Shows the hybridloop loops of a process: tasks, callbacks, connections and bytes of each loop, and
the threads, native workers and memory bus of each engine. Press Ctrl-C to exit.

The process must serve its statistics: start it with HYBRIDLOOP_OBSERVE=1 in its environment, or
call hybridloop.metrics.serve() in it. A URL must be that of a Prometheus exporter with a
hybridloop.metrics.prometheus.Collector.
"""


def main(argv: list[str]) -> int:
    """Run the command. Returns 1 if the statistics cannot be read, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        "python -m hybridloop top",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "target",
        nargs="?",
        metavar="PID|URL|PATH",
        help="a process, a Prometheus endpoint, or a socket given to serve(); optional if only one "
        "process serves its statistics",
    )
    parser.add_argument("--once", action="store_true", help="print one frame and exit")
    parser.add_argument(
        "--json", action="store_true", help="print each snapshot as a line of JSON instead"
    )
    parser.add_argument(
        "--interval",
        type=_interval,
        default=1.0,
        metavar="SECONDS",
        help="time between frames (1)",
    )
    arguments = parser.parse_args(argv)
    try:
        return _show(open_source(arguments.target), arguments)
    except SourceError as error:
        print(f"hybridloop top: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # The reader has closed the pipe. Do not write again at exit.
        sys.stdout = None
        return 0


def _show(observed: Source, arguments: argparse.Namespace) -> int:
    if arguments.json:
        return _lines(observed, arguments.once, arguments.interval)
    try:
        from rich.console import Console

        from .view import render
    except ImportError:
        print("hybridloop top needs rich: pip install 'hybridloop[top]'", file=sys.stderr)
        return 2
    console = Console(highlight=False)
    if not arguments.once and console.is_terminal:
        return _live(observed, console, arguments.interval)
    console.print(render(observed.read()), soft_wrap=not console.is_terminal)
    return 0


def _lines(observed: Source, once: bool, interval: float) -> int:
    while True:
        try:
            print(json.dumps(observed.read().as_dict()), flush=True)
        except ProcessEnded:
            return 0
        if once:
            return 0
        time.sleep(interval)


def _live(observed: Source, console: Console, interval: float) -> int:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from .view import render

    # Raises before the screen is cleared if there is nothing to show.
    now = observed.read()
    taken = time.monotonic()
    before: ProcessStats | None = None
    seconds = 0.0
    # The screen has to be restored in any case.
    signal.signal(signal.SIGTERM, _leave)
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            problem = Text()
            while True:
                live.update(Group(render(now, before, seconds), problem), refresh=True)
                time.sleep(interval)
                try:
                    newer = observed.read()
                except ProcessEnded:
                    raise
                except SourceError as error:
                    problem = Text(f"\n{error}; retrying", style="bold red")
                    continue
                problem = Text()
                at = time.monotonic()
                now, before, seconds, taken = newer, now, at - taken, at
    except KeyboardInterrupt:
        return 0
    except ProcessEnded as end:
        print(end)
        return 0


def _leave(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _interval(text: str) -> float:
    seconds = float(text)
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("between 0.05 and 3600 seconds")
    return seconds
