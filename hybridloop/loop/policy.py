"""The event loop policy, for programs that set one."""

from __future__ import annotations

import asyncio
import sys
import warnings
from typing import TYPE_CHECKING, Any

from .loop import Loop

if TYPE_CHECKING:

    class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
        """asyncio's default policy with `hybridloop.Loop` as the loop it makes."""


_REMOVED = (
    "event loop policies were removed in Python 3.16: use hybridloop.run(main()) or "
    "asyncio.Runner(loop_factory=hybridloop.new_event_loop)"
)

_policy_class: type[Any] | None = None


def policy_class() -> type[Any]:
    """The class `hybridloop.EventLoopPolicy`; `AttributeError` from Python 3.16 on.

    It is made on first use: policies are deprecated since Python 3.14, and the import of hybridloop
    must not warn.
    """
    global _policy_class
    if sys.version_info >= (3, 16):
        raise AttributeError(_REMOVED)
    if _policy_class is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            base: type[Any] = asyncio.DefaultEventLoopPolicy
        _policy_class = type(
            "EventLoopPolicy",
            (base,),
            {
                "__module__": "hybridloop",
                "__doc__": "asyncio's default policy with `hybridloop.Loop` as the loop it makes.",
                "_loop_factory": Loop,
            },
        )
    return _policy_class


def install() -> None:
    """Make hybridloop the loop of `asyncio.run()` and `asyncio.new_event_loop()` in this process.

    Prefer `hybridloop.run()` or a `loop_factory`: policies are deprecated since Python 3.14, where
    this warns, and removed in 3.16, where it raises `RuntimeError`.
    """
    if sys.version_info >= (3, 16):
        raise RuntimeError(_REMOVED)
    asyncio.set_event_loop_policy(policy_class()())


def __getattr__(name: str) -> type[Any]:
    if name == "EventLoopPolicy":
        return policy_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
