"""Replaces asyncio's default loop in the process of the tests, by asyncio's private classes."""

import asyncio
from asyncio import base_events, unix_events
from collections.abc import Callable
from dataclasses import dataclass

from .loops import LoopFactory


@dataclass
class Tally:
    """Loops created since the last reset, to show which loop a test really used."""

    under_test: int = 0
    stock: int = 0

    def reset(self) -> None:
        self.under_test = self.stock = 0


def install(factory: LoopFactory) -> Tally:
    """Make every default loop of asyncio come from ``factory``.

    Call it before the test modules are imported: some of them read the names at class creation.
    """
    tally = Tally()
    probe = factory()
    loop_type = type(probe)
    probe.close()

    def make() -> asyncio.AbstractEventLoop:
        loop = factory()
        if not isinstance(loop, loop_type):
            raise TypeError(f"the factory gave a {type(loop)} after a {loop_type}")
        tally.under_test += 1
        return loop

    _count_stock_loops(tally, loop_type)
    # A policy made by set_event_loop_policy(None), as the modules' tearDownModule does, reads
    # this attribute too; so do new_event_loop(), run() and Runner() by way of the policy.
    unix_events._UnixDefaultEventLoopPolicy._loop_factory = staticmethod(make)
    stand_in = _stand_in(make, loop_type)
    asyncio.SelectorEventLoop = stand_in
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = stand_in
    if not issubclass(loop_type, base_events.BaseEventLoop):
        _adapt_harness(loop_type)
    return tally


def _count_stock_loops(tally: Tally, loop_type: type) -> None:
    stock = unix_events._UnixSelectorEventLoop
    if loop_type is stock:
        return
    init = stock.__init__

    def counting_init(self, *args, **kwargs):
        if type(self) is stock:
            tally.stock += 1
        init(self, *args, **kwargs)

    stock.__init__ = counting_init


def _stand_in(make: Callable[[], asyncio.AbstractEventLoop], loop_type: type) -> type:
    """What the names asyncio.SelectorEventLoop and asyncio.EventLoop refer to from here on.

    The class itself stays as it is, for the loop under test may derive from it.
    """
    stock = unix_events._UnixSelectorEventLoop

    class StandInType(type):
        def __call__(cls, selector=None):
            if selector is not None:
                selector.close()
            return make()

        def __instancecheck__(cls, instance):
            return isinstance(instance, (stock, loop_type))

        def __subclasscheck__(cls, subclass):
            return issubclass(subclass, (stock, loop_type))

        def __getattr__(cls, name):
            return getattr(stock, name)

    return StandInType("SelectorEventLoop", (), {"__module__": "asyncio"})


def _adapt_harness(loop_type: type) -> None:
    """Keep the test harness off what only loops derived from BaseEventLoop have."""
    from test.test_asyncio import utils

    close_loop = utils.TestCase.close_loop

    def close_foreign_loop(loop):
        if hasattr(loop, "_default_executor"):
            close_loop(loop)
            return
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    utils.TestCase.close_loop = staticmethod(close_foreign_loop)

    # Before Python 3.14 the classes of test_events attach a child watcher to the loop; a loop
    # that is not asyncio's own waits for its children by itself.
    watcher = getattr(unix_events, "SafeChildWatcher", None)
    if watcher is None:
        return
    base = unix_events.BaseChildWatcher
    attach_loop = base.attach_loop

    def attach_own_loop(self, loop):
        if not isinstance(loop, loop_type):
            attach_loop(self, loop)

    base.attach_loop = attach_own_loop
