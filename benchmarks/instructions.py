"""User instructions per message or operation, counted by callgrind.

python -m benchmarks.instructions --loops uvloop,hybridloop --top 30
python -m benchmarks.instructions --kinds sock,udp,tls,unix,streams
python -m benchmarks.instructions --micro call_soon-chain
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import micro
from benchmarks.harness.arguments import choice_of
from benchmarks.harness.callgrind import Function, Profile, read
from benchmarks.harness.cpu import choose_cores, pinned
from benchmarks.harness.process import ROOT, Echo, Unavailable, load, reason_of, server
from benchmarks.harness.tables import NONE
from benchmarks.harness.tools import require
from benchmarks.loops import BASELINE, LOOPS, REFERENCES, installed, with_variants
from benchmarks.servers import ECHO_KINDS, runs

# The same hashes, and with them the same dictionaries, in every run.
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
START_TIMEOUT = 120.0
RUN_TIMEOUT = 300.0


def callgrind(output: Path) -> list[str]:
    return ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={output}"]


def dump(pid: int) -> None:
    """Have callgrind write its counters and start again from zero."""
    command = ["callgrind_control", "--dump", str(pid)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode or "OK" not in result.stdout:
        raise Unavailable(f"callgrind_control: {result.stdout} {result.stderr}")


def profile_echo(kind: str, loop: str, echo: Echo) -> Profile:
    """Profile a server from the end of the warm-up to the last message."""
    server_core, client_core = choose_cores()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "callgrind.out"
        with (
            server(
                kind,
                loop,
                server_core,
                prefix=callgrind(output),
                env=ENVIRONMENT,
                start_timeout=START_TIMEOUT,
            ) as target,
            load(target.address, echo, client_core, timeout=RUN_TIMEOUT) as client,
        ):
            target.cpu_ns()  # settles
            dump(target.pid)
            client.run(RUN_TIMEOUT)
            target.cpu_ns()
            dump(target.pid)
        return read(output.with_name(f"{output.name}.2"))


def profile_micro(case: str, loop: str, operations: int) -> Profile:
    """Profile the operations of a micro-benchmark: a long run less a short one."""
    short = profile_micro_run(case, loop, operations, rounds=1)
    return profile_micro_run(case, loop, operations, rounds=2).since(short)


def profile_micro_run(case: str, loop: str, operations: int, rounds: int) -> Profile:
    core, _ = choose_cores()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "callgrind.out"
        command = [*callgrind(output), sys.executable, "-m", "benchmarks.micro", case]
        command += ["--loop", loop, "--rounds", str(rounds), "--operations", str(operations)]
        with pinned(core):
            result = subprocess.run(
                command,
                check=False,
                cwd=ROOT,
                env={**os.environ, **ENVIRONMENT},
                capture_output=True,
                text=True,
                timeout=RUN_TIMEOUT,
            )
        if result.returncode:
            raise Unavailable(reason_of(result.stderr) or f"exit status {result.returncode}")
        return read(output)


def print_top(loop: str, profile: Profile, count: int, top: int, inclusive: bool) -> None:
    """Print where the instructions of one loop go, per message or operation."""
    with_callees = profile.inclusive()
    order: Counter[Function] = with_callees if inclusive else profile.own
    print(f"\n## {loop}: instructions each\n")
    for owner, cost in profile.by_object().most_common():
        if cost >= count:
            print(f"{cost / count:10.1f}  {owner or '(no object)'}")
    print(f"\n{'self':>10}  {'inclusive':>10}  {'calls':>7}  function [object]")
    for function, _ in order.most_common(top):
        own, all_, calls = (
            counter[function] / count for counter in (profile.own, with_callees, profile.called)
        )
        print(f"{own:10.1f}  {all_:10.1f}  {calls:7.2f}  {function[1]} [{function[0]}]")


def print_table(title: str, costs: dict[str, float], failures: dict[str, str]) -> None:
    print(f"\n| {title} | instructions | ratio to {BASELINE} |\n|---|--:|--:|")
    base = costs.get(BASELINE)
    for loop, cost in costs.items():
        ratio = f"{cost / base:.2f}" if base else NONE
        print(f"| {loop} | {cost:,.0f} | {ratio} |")
    for loop, reason in failures.items():
        print(f"| {loop} | {NONE} {reason} | |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = [*LOOPS, *REFERENCES]
    parser.add_argument("--loops", type=choice_of(everything), default=everything)
    kinds = choice_of(ECHO_KINDS)
    parser.add_argument(
        "--kinds",
        "--kind",
        type=kinds,
        default=["protocol"],
        help=f"servers, of {', '.join(ECHO_KINDS)}",
    )
    parser.add_argument("--size", type=int, default=1024, help="bytes per message")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--depth", type=int, default=1, help="messages under way per connection")
    parser.add_argument("--messages", type=int, default=2000, help="messages counted")
    parser.add_argument("--warmup", type=int, default=2000, help="messages before")
    parser.add_argument(
        "--think-us",
        type=int,
        default=500,
        help="microseconds between a reply and the next message. callgrind slows the server, so "
        "that without a pause the next message is there before the loop gets to wait for it.",
    )
    parser.add_argument("--micro", choices=micro.CASES, help="count a micro-benchmark instead")
    parser.add_argument("--top", type=int, default=0, help="functions to print per loop")
    parser.add_argument("--inclusive", action="store_true", help="sort --top with callees")
    parser.add_argument("--json", type=Path, help="file to write the counts to")
    return parser.parse_args()


@dataclass
class Table:
    """What a kind of server or a micro-benchmark costs on each loop."""

    title: str
    instructions: dict[str, float]
    unavailable: dict[str, str]


def count_all(
    title: str,
    loops: Sequence[str],
    missing: dict[str, str],
    count: int,
    profile_of: Callable[[str], Profile],
    arguments: argparse.Namespace,
) -> Table:
    """Profile the loops, print where the instructions go and a table of their sums."""
    result = Table(title, {}, dict(missing))
    for loop in loops:
        try:
            profile = profile_of(loop)
        except Unavailable as error:
            result.unavailable[loop] = str(error)
            continue
        result.instructions[loop] = profile.total / count
        if arguments.top:
            print_top(loop, profile, count, arguments.top, arguments.inclusive)
    print_table(title, result.instructions, result.unavailable)
    sys.stdout.flush()
    return result


def main() -> None:
    arguments = parse_arguments()
    require("valgrind")
    usable, missing = installed([name for name in arguments.loops if name in LOOPS])
    tables = []
    if arguments.micro:
        case = arguments.micro
        count = max(micro.CASES[case].operations // 10, 20)
        tables.append(
            count_all(
                f"{case}, per operation",
                usable,
                missing,
                count,
                lambda loop: profile_micro(case, loop, count),
                arguments,
            )
        )
    else:
        echo = Echo(
            size=arguments.size,
            connections=arguments.connections,
            depth=arguments.depth,
            warmup=arguments.warmup,
            messages=arguments.messages,
            think_us=arguments.think_us,
        )
        names = [*with_variants(usable), *(name for name in arguments.loops if name in REFERENCES)]
        for kind in arguments.kinds:
            tables.append(
                count_all(
                    f"{kind} echo of {arguments.size} B, per message",
                    [name for name in names if runs(kind, name)],
                    missing,
                    arguments.messages,
                    functools.partial(profile_echo, kind, echo=echo),
                    arguments,
                )
            )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(table) for table in tables], indent=2) + "\n")


if __name__ == "__main__":
    main()
