"""The event loops under test, by name."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
from collections.abc import Callable

SUBJECT = "hybridloop"
BASELINE = "uvloop"

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# Name → the module whose new_event_loop() makes the loop.
LOOPS = {
    "asyncio": "asyncio",
    "uvloop": "uvloop",
    "rloop": "rloop",
    "blazio": "blazio",
    "hybridloop": "hybridloop",
}

# Echo servers that are no asyncio loop: what they cost bounds what a loop can cost.
FLOOR = "floor"
LIMIT = "limit"
REFERENCES = {
    FLOOR: "an epoll loop in C that drives an asyncio.Protocol",
    LIMIT: "an epoll echo server in Rust without Python",
}


def loop_factory(name: str) -> LoopFactory:
    """Return the function that makes a new loop of this name; ImportError if there is none."""
    module = importlib.import_module(LOOPS[name])
    try:
        factory: LoopFactory = module.new_event_loop
    except AttributeError:
        raise ImportError(f"{name} has no new_event_loop()") from None
    return factory


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
