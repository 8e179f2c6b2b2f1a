"""User instructions per message or operation, counted by callgrind.

python -m benchmarks.instructions --loops uvloop,hybridloop --top 30
python -m benchmarks.instructions --micro call_soon-chain
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks import micro
from benchmarks.harness.arguments import choice_of
from benchmarks.harness.callgrind import Function, Profile, read
from benchmarks.harness.cpu import choose_cores, pinned
from benchmarks.harness.process import ROOT, Echo, Unavailable, load, server
from benchmarks.harness.tools import require
from benchmarks.loops import BASELINE, LOOPS, REFERENCES, installed
from benchmarks.servers import SERVERS

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
            load(target.port, echo, client_core, timeout=RUN_TIMEOUT) as client,
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
            lines = result.stderr.strip().splitlines()
            raise Unavailable(lines[-1] if lines else f"exit status {result.returncode}")
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
        ratio = f"{cost / base:.2f}" if base else "-"
        print(f"| {loop} | {cost:,.0f} | {ratio} |")
    for loop, reason in failures.items():
        print(f"| {loop} | n/a: {reason} | |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = [*LOOPS, *REFERENCES]
    parser.add_argument("--loops", type=choice_of(everything), default=everything)
    parser.add_argument("--kind", choices=SERVERS, default="protocol", help="server")
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
    arguments = parser.parse_args()
    if arguments.kind in ("uvicorn", "aiohttp"):
        parser.error("--kind must be an echo server")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    require("valgrind")
    loops = [name for name in arguments.loops if name in LOOPS]
    usable, failures = installed(loops)
    if arguments.micro:
        count = max(micro.CASES[arguments.micro].operations // 10, 20)
        title = f"{arguments.micro}, per operation"
    else:
        usable += [name for name in arguments.loops if name in REFERENCES]
        count = arguments.messages
        title = f"{arguments.kind} echo of {arguments.size} B, per message"
    echo = Echo(
        size=arguments.size,
        connections=arguments.connections,
        depth=arguments.depth,
        warmup=arguments.warmup,
        messages=count,
        think_us=arguments.think_us,
    )
    costs: dict[str, float] = {}
    for loop in usable:
        try:
            if arguments.micro:
                profile = profile_micro(arguments.micro, loop, count)
            else:
                profile = profile_echo(arguments.kind, loop, echo)
        except Unavailable as error:
            failures[loop] = str(error)
            continue
        costs[loop] = profile.total / count
        if arguments.top:
            print_top(loop, profile, count, arguments.top, arguments.inclusive)
    print_table(title, costs, failures)
    if arguments.json:
        report = {"title": title, "instructions": costs, "unavailable": failures}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
