"""The event loops under test, by name."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
from collections.abc import Callable, Iterable

SUBJECT = "hybridloop"
BASELINE = "uvloop"

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# Name → the module whose new_event_loop() makes the loop.
LOOPS = {
    "asyncio": "asyncio",
    "uvloop": "uvloop",
    "rloop": "rloop",
    "blazio": "blazio",
    "zuvloop": "zuvloop",
    "rsloop": "rsloop",
    "hybridloop": "hybridloop",
}

# Loops that wait by io_uring where the kernel has it; the others wait by epoll.
IO_URING = {"blazio", "rsloop"}

# Columns beside the loops: a loop with its own API in place of asyncio's, and a loop without the
# optimisations that look into private memory of CPython.
OWN_STREAMS = f"{SUBJECT} streams"
SAFE = f"{SUBJECT} (safe)"
VARIANTS = {OWN_STREAMS: SUBJECT, SAFE: SUBJECT}
SUBJECTS = [SUBJECT, OWN_STREAMS]
SAFE_SWITCH = "HYBRIDLOOP_SAFE"

# Echo servers that are no asyncio loop: what they cost bounds what a loop can cost.
FLOOR = "floor"
LIMIT = "limit"
REFERENCES = {
    FLOOR: "an epoll loop in C that drives an asyncio.Protocol",
    LIMIT: "an epoll echo server in Rust (with rustls where there is TLS) without Python",
}


def loop_factory(name: str) -> LoopFactory:
    """Return the function that makes a new loop of this name; ImportError if there is none."""
    module = importlib.import_module(LOOPS[name])
    try:
        factory: LoopFactory = module.new_event_loop
    except AttributeError:
        raise ImportError(f"{name} has no new_event_loop()") from None
    return factory


def loop_of(column: str) -> str:
    """Return the loop of a column: its own name, or what it is a variant of."""
    return VARIANTS.get(column, column)


def environment_of(column: str) -> dict[str, str]:
    """Return what a process of this column needs in its environment, whatever the user's says."""
    if loop_of(column) != SUBJECT:
        return {}
    return {SAFE_SWITCH: "1" if column == SAFE else ""}


def columns(names: Iterable[str]) -> list[str]:
    """Return names of loops, variants and references in the order of the tables."""
    known = set(names)
    return [name for name in [*LOOPS, *VARIANTS, *REFERENCES] if name in known]


def with_variants(names: Iterable[str], safe: bool = False) -> list[str]:
    """Return loop names together with the variants of these loops."""
    loops = list(names)
    variants = [name for name, loop in VARIANTS.items() if loop in loops]
    return columns([*loops, *(name for name in variants if safe or name != SAFE)])


def version(name: str) -> str:
    """Return the installed version of a loop; ImportError if it is not installed."""
    loop_factory(name)
    if name == "asyncio":
        return "standard library"
    try:
        return importlib.metadata.version(LOOPS[name])
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(LOOPS[name]), "__version__", "unknown"))


def installed(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Split loop names into those that can be made here and, with the reason, those that can't."""
    usable: list[str] = []
    missing: dict[str, str] = {}
    for name in names:
        try:
            loop_factory(name)
        except Exception as error:  # an extension module may fail in its own ways
            missing[name] = f"{type(error).__name__}: {error}"
        else:
            usable.append(name)
    return usable, missing
