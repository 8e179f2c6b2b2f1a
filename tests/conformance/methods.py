"""Which loop has which method of asyncio.AbstractEventLoop, and where it comes from.

Run ``python -m tests.conformance.methods --write`` to write docs/methods.md anew.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import inspect
import os
import platform
import signal
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import loops
from .probes import PROBES

DOCUMENT = Path(__file__).parents[2] / "docs" / "methods.md"
LOOPS = {
    "asyncio": "asyncio:SelectorEventLoop",
    "uvloop": "uvloop:new_event_loop",
    "rloop": "rloop:new_event_loop",
    "blazio": "blazio:new_event_loop",
    "hybridloop": "hybridloop:new_event_loop",
}
JOBS = 2
SECONDS = 60.0
WORKS = "works"
MISSING = "not implemented"
HEAD = """\
# Methods of the loops

Every public method of `asyncio.AbstractEventLoop`, on {system}, Python {python}, with
{versions}.

- *native*: compiled code of the loop.
- *Python*: Python code of the loop.
- *inherited*: asyncio's code, by inheritance.
- *not implemented*: the method does not exist, or raises `NotImplementedError`.
- *fails*: the method was called as documented, and did not work.

The origin of a method is read from the class. To see whether it works, each method is called by
`tests/conformance/probes.py`, in a separate process. This page is written by
`python -m tests.conformance.methods --write`.

"""


def names() -> list[str]:
    """The methods, in the order in which asyncio documents them in its source."""
    return [
        name
        for name, member in vars(asyncio.AbstractEventLoop).items()
        if inspect.isfunction(member) and not name.startswith("_")
    ]


def origin(loop_type: type, name: str) -> str:
    """Where a loop class has a method from."""
    for owner in loop_type.__mro__:
        if name not in vars(owner):
            continue
        if owner is asyncio.AbstractEventLoop:
            return MISSING
        if owner.__module__.partition(".")[0] == "asyncio":
            return "Python" if loop_type.__module__.startswith("asyncio.") else "inherited"
        member = vars(owner)[name]
        if member is vars(asyncio.BaseEventLoop).get(name):
            return "inherited"
        return "Python" if isinstance(member, types.FunctionType) else "native"
    return MISSING


def use(spec: str, name: str) -> str:
    """Use a method in this process and say what came of it."""
    asyncio.set_event_loop(loop := loops.load(spec)())
    probe = PROBES[name]
    try:
        if inspect.iscoroutinefunction(probe):
            loop.run_until_complete(probe(loop))
        else:
            probe(loop)
    except NotImplementedError:
        return MISSING
    except AttributeError as error:
        return MISSING if error.name == name else f"fails: {type(error).__name__}"
    except BaseException as error:
        return f"fails: {type(error).__name__}"
    return WORKS


def try_out(spec: str, name: str) -> str:
    """The same in a process of its own, which may hang or crash."""
    process = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, "--use", spec, name],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return "fails: hangs"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    if not output.startswith("outcome: "):
        return "fails: crashes"
    return output.splitlines()[0].removeprefix("outcome: ")


def cells(loop: str) -> dict[str, str]:
    """The column of a loop."""
    spec = LOOPS[loop]
    instance = loops.load(spec)()
    loop_type = type(instance)
    instance.close()
    found = {name: origin(loop_type, name) for name in names()}
    present = [name for name, where in found.items() if where != MISSING]
    with ThreadPoolExecutor(JOBS) as pool:
        outcomes = pool.map(lambda name: try_out(spec, name), present)
        for name, outcome in zip(present, outcomes, strict=True):
            if outcome != WORKS:
                found[name] = outcome if outcome == MISSING else f"{found[name]}, {outcome}"
    return found


def table(columns: dict[str, dict[str, str]]) -> str:
    rows = ["| method | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for name in names():
        row = (
            f"**{cell}**" if cell == MISSING else cell
            for cell in (column[name] for column in columns.values())
        )
        rows.append(f"| `{name}()` | " + " | ".join(row) + " |")
    usable = (
        str(sum(cell in ("native", "Python", "inherited") for cell in column.values()))
        for column in columns.values()
    )
    rows.append(f"| **work, of {len(names())}** | " + " | ".join(usable) + " |")
    return "\n".join(rows)


def document() -> str:
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("uvloop", "rloop", "blazio")
    ]
    head = HEAD.format(
        system=platform.system(),
        python=platform.python_version(),
        versions=", ".join(versions[:-1]) + " and " + versions[-1],
    )
    return head + table({loop: cells(loop) for loop in LOOPS}) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.methods")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}")
    parser.add_argument("--use", nargs=2, metavar=("LOOP", "METHOD"), help="try one method")
    options = parser.parse_args()
    if options.use:
        outcome = use(*options.use)
        # Leave without waiting for what a loop that failed has left running.
        print(f"outcome: {outcome}", flush=True)
        os._exit(0)
    text = document()
    if options.write:
        DOCUMENT.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
