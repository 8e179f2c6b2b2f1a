"""Async functions in C and Rust beside `async def` and their peers, in time.

python -m benchmarks.awaitables --loops asyncio,uvloop,hybridloop

Each sample is a process of its own; those that are compared are taken alternately.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import shlex
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import hybridloop
from benchmarks.harness.arguments import choice_of
from benchmarks.harness.process import ROOT, Unavailable, numbers_of
from benchmarks.harness.tables import table
from benchmarks.loops import LOOPS, SUBJECT, installed, loop_factory

HERE = Path(__file__).parent
BUILD = ROOT / "target" / "benchmarks" / "awaitables"
TIMEOUT = 120.0
SAMPLE_SECONDS = 0.2

Once = Callable[[Any], Awaitable[object]]


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Unavailable(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, **environment}
    )
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1:]}")


def build_c(name: str, variant: str, include: str) -> ModuleType:
    """Compile NAME.c with the headers of that folder, unless that is done already; import it."""
    suffix: str = sysconfig.get_config_var("EXT_SUFFIX")
    target = BUILD / variant / f"{name}{suffix}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f"{target.name}.{os.getpid()}")
        compiler = [*shlex.split(os.environ.get("CC", "cc")), "-O2", "-shared", "-fPIC", "-DNDEBUG"]
        headers = [f"-I{include}", f"-I{sysconfig.get_path('include')}"]
        run([*compiler, *headers, str(HERE / f"{name}.c"), "-o", str(fresh)])
        fresh.replace(target)
    return load(target, name)


def pyawaitable() -> Once:
    if importlib.util.find_spec("pyawaitable") is None:
        raise Unavailable("it is not installed (pip install pyawaitable)")
    import pyawaitable  # type: ignore[import-not-found, import-untyped, unused-ignore]

    once: Once = build_c("callbacks", "pyawaitable", str(pyawaitable.include())).once
    return once


def build_rust() -> ModuleType:
    manifest = str(HERE / "rust" / "Cargo.toml")
    command = ["cargo", "build", "--release", "--quiet", "--manifest-path", manifest]
    run(
        [*command, "--target-dir", str(BUILD / "rust")],
        PYO3_NO_PYTHON="1",
        PYO3_BUILD_EXTENSION_MODULE="1",
    )
    return load(BUILD / "rust" / "release" / "libawaits.so", "awaits")


async def python_once(awaitable: Awaitable[object]) -> object:
    return await awaitable


async def ends() -> None:
    pass


class Yields:
    """Yields to the loop once, as `asyncio.sleep(0)` does."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def yields() -> None:
    await Yields()


# What awaits: "how" of a row, by the name of its column.
WAYS: dict[str, Callable[[], Once]] = {
    "async def": lambda: python_once,
    "callbacks": lambda: build_c("callbacks", "hybridloop", hybridloop.get_include()).once,
    "steps": lambda: build_c("steps", "hybridloop", hybridloop.get_include()).once,
    "PyAwaitable": pyawaitable,
}
AWAITED: dict[str, Callable[[], Awaitable[object]]] = {"ends": ends, "yields": yields}

# Functions of Rust, by row: hybridloop-async, and its peer.
RUST = {
    "nothing": ("nothing", "pyo3_nothing"),
    "thread": ("by_a_thread", "peer_by_a_thread"),
    "relay": ("relay", "peer_relay"),
}


async def nanoseconds(call: Callable[[], Awaitable[object]], calls: int) -> float:
    for _ in range(calls):
        await call()
    done, begin = 0, time.perf_counter_ns()
    while (spent := time.perf_counter_ns() - begin) < SAMPLE_SECONDS * 1e9:
        for _ in range(calls):
            await call()
        done += calls
    return spent / done


async def time_c(how: str) -> dict[str, float]:
    once = WAYS[how]()
    return {
        name: await nanoseconds(lambda what=what: once(what()), 1000)  # type: ignore[misc]
        for name, what in AWAITED.items()
    }


async def time_rust(which: str) -> dict[str, float]:
    module = build_rust()
    if which == "async def":
        return {
            "nothing": await nanoseconds(ends, 1000),
            "relay": await nanoseconds(lambda: python_once(ends()), 1000),
        }
    found = {}
    for row, names in RUST.items():
        function = getattr(module, names[which == "peer"])
        call = (lambda f=function: f(ends())) if row == "relay" else function
        found[row] = await nanoseconds(call, 1000 if row == "nothing" else 100)
    return found


def take_sample(arguments: list[str]) -> dict[str, float]:
    kind, what, loop = arguments
    timing = {"c": time_c, "rust": time_rust}[kind]
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        return runner.run(timing(what))


Samples = dict[tuple[str, str, str], list[dict[str, float]]]


def measure(columns: list[tuple[str, str, str]], repeats: int) -> Samples:
    """Take the samples of all columns in turns; leave out what cannot be measured here."""
    samples: Samples = {column: [] for column in columns}
    for repeat in range(repeats):
        for column in columns[repeat % len(columns) :] + columns[: repeat % len(columns)]:
            if column not in samples:
                continue
            try:
                found = numbers_of("benchmarks.awaitables", "--sample", *column, timeout=TIMEOUT)
            except Unavailable as error:
                del samples[column]
                print(f"{column[1]} was skipped: {error}", file=sys.stderr)
            else:
                samples[column].append(found)
    return samples


def cell(taken: list[dict[str, float]] | None, row: str, scale: float, digits: int) -> str:
    values = [one[row] / scale for one in taken or () if row in one]
    if not values:
        return "\N{EN DASH}"
    return (
        f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}"
        f"..{max(values):.{digits}f})"
    )


def prepare() -> None:
    """Build everything before the first sample."""
    for how in WAYS.values():
        # measure() says why one is not there.
        with suppress(Unavailable):
            how()
    try:
        build_rust()
    except Unavailable as error:
        print(f"Rust: {error}", file=sys.stderr)


def report(loops: list[str], repeats: int) -> None:
    in_c = [("c", how, SUBJECT) for how in WAYS]
    rust = [("rust", which, loop) for loop in loops for which in ("hybridloop-async", "peer")]
    python = ("rust", "async def", SUBJECT)
    samples = measure([*in_c, python, *rust], repeats)
    print(f"Time per await in ns, medians of {repeats} samples and their range:\n")
    columns = [column for column in in_c if column in samples]
    body = [
        [title, *(cell(samples[column], row, 1, 0) for column in columns)]
        for row, title in (
            ("ends", "a coroutine that ends at once"),
            ("yields", "that yields once"),
        )
    ]
    print("\n".join(table(["", *(how for _, how, _ in columns)], body)))
    print("\nFunctions in Rust, µs; the peer is PyO3's `async fn`, else pyo3-async-runtimes:\n")
    titles = {
        "nothing": "does nothing",
        "thread": "a future that a thread finishes",
        "relay": "awaits a coroutine of Python",
    }
    body = [
        [title, *(cell(samples.get(column), row, 1e3, 2) for column in [python, *rust])]
        for row, title in titles.items()
    ]
    heads = [f"{which}, {loop}" for _, which, loop in rust]
    print("\n".join(table(["", "async def", *heads], body)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare async functions in C and Rust.")
    parser.add_argument("--loops", type=choice_of(LOOPS), default=["asyncio", "uvloop", SUBJECT])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sample", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sample:
        try:
            print(json.dumps(take_sample(arguments.sample)), flush=True)
            # Threads of pyo3-async-runtimes may crash a process that ends in the common way.
            os._exit(0)
        except Unavailable as error:
            sys.exit(str(error))
        return
    usable, missing = installed(arguments.loops)
    for name, reason in missing.items():
        print(f"{name} was skipped: {reason}", file=sys.stderr)
    prepare()
    report(usable, arguments.repeats)


if __name__ == "__main__":
    main()
