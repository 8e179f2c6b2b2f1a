"""The event loops that can be put under test."""

import asyncio
import importlib
from collections.abc import Callable

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class StockLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop as a class apart, so that it goes in the way every other loop does."""


def in_greenlets() -> asyncio.AbstractEventLoop:
    """hybridloop's loop as it runs in programs that use `hybridloop.sync`. (T3.30)"""
    importlib.import_module("hybridloop.sync")
    return importlib.import_module("hybridloop").new_event_loop()


NAMED = {
    "asyncio": f"{__name__}:StockLoop",
    "uvloop": "uvloop:new_event_loop",
    "hybridloop": "hybridloop:new_event_loop",
    "hybridloop-sync": f"{__name__}:in_greenlets",
}
CONTROL = "asyncio"


def spec_of(name: str) -> str:
    """Turn a name of the table, or ``module:factory`` itself, into ``module:factory``."""
    spec = NAMED.get(name, name)
    if ":" not in spec:
        known = ", ".join(NAMED)
        raise ValueError(f"{name!r} is neither one of {known} nor of the form module:factory")
    return spec


def load(name: str) -> LoopFactory:
    """Import the factory of a loop."""
    module, _, attributes = spec_of(name).partition(":")
    target = importlib.import_module(module)
    for attribute in attributes.split("."):
        target = getattr(target, attribute)
    return target
