"""Whether hybridloop takes more instructions than the baseline says.

python -m benchmarks.gate                  # compare
python -m benchmarks.gate --write          # make what is counted now the baseline

A baseline belongs to a version of Python, whose own instructions are most of some rows. Counted is
what runs in the extension and in Python. What the C library and OpenSSL take depends on the
processor.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

from benchmarks import micro
from benchmarks.harness.callgrind import Profile
from benchmarks.harness.process import Echo
from benchmarks.harness.tables import table
from benchmarks.harness.tools import require
from benchmarks.instructions import profile_echo, profile_micro
from benchmarks.loops import SUBJECT

BASELINES = Path(__file__).parent / "baselines"
# A row fails if it takes so much more than its baseline.
ALLOWED = 0.05
MESSAGES = 2000

ECHOES = {
    "protocol": "Protocol",
    "streams": "asyncio's streams",
    "hl-streams": "hybridloop's streams",
    "sock": "sock_*",
    "udp": "UDP",
    "tls": "TLS",
}
MICRO = (
    "call_soon-chain",
    "call_soon-fanout",
    "call_later-cancel",
    "sleep0",
    "create_task-await",
    "run_native",
)


def counted(profile: Profile) -> int:
    """The instructions of Python and of the extension."""
    return sum(
        cost
        for owner, cost in profile.by_object().items()
        if "/_core." in owner or "python" in Path(owner).name
    )


def count() -> dict[str, float]:
    echo = Echo(size=1024, connections=1, depth=1, warmup=MESSAGES, messages=MESSAGES, think_us=500)
    rows = {
        f"{title} echo of 1 KiB": counted(profile_echo(kind, SUBJECT, echo)) / MESSAGES
        for kind, title in ECHOES.items()
    }
    for name in MICRO:
        operations = max(micro.CASES[name].operations // 10, 20)
        profile = profile_micro(name, SUBJECT, operations)
        rows[micro.CASES[name].title] = counted(profile) / operations
    return {title: round(cost, 1) for title, cost in rows.items()}


def compare(rows: dict[str, float], baseline: dict[str, float]) -> tuple[list[list[str]], bool]:
    """Rows of a table, and whether none takes too much."""
    body, holds = [], rows.keys() == baseline.keys()
    for title, cost in rows.items():
        before = baseline.get(title)
        if before is None:
            body.append([title, "not there", f"{cost:,.0f}", "**new**"])
            continue
        change = cost / before - 1
        holds &= change <= ALLOWED
        mark = "**" if change > ALLOWED else ""
        body.append([title, f"{before:,.0f}", f"{cost:,.0f}", f"{mark}{change:+.1%}{mark}"])
    body += [
        [title, f"{before:,.0f}", "not there", "**gone**"]
        for title, before in baseline.items()
        if title not in rows
    ]
    return body, holds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the baseline")
    arguments = parser.parse_args()
    require("valgrind")
    python = platform.python_version()
    path = BASELINES / f"{'.'.join(platform.python_version_tuple()[:2])}.json"
    if arguments.write:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"python": python, "instructions": count()}, indent=2) + "\n")
        return
    if not path.exists():
        sys.exit(f"there is no baseline of Python {python}; --write makes it")
    baseline = json.loads(path.read_text())
    body, holds = compare(count(), baseline["instructions"])
    head = ["instructions", f"baseline, {baseline['python']}", f"now, {python}", "change"]
    print("\n".join(table(head, body)))
    if not holds and baseline["python"] != python:
        print(f"The baseline is of Python {baseline['python']}, so the loop may be as it was.")
    elif not holds:
        sys.exit(f"A row takes over {ALLOWED:.0%} more than its baseline.")


if __name__ == "__main__":
    main()
