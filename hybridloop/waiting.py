"""Waiting for the memory bus and for channels, on any event loop."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any

from ._core import Courier, Watch
from .errors import BusBusyError, ChannelClosedError
from .native import NativeMethods

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._core import Bus, Channel, NativeBuffer

# A loop of ours keeps its courier until it is closed. Others have one as long as somebody waits.
_couriers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[Courier]]
_couriers = weakref.WeakKeyDictionary()


def _courier_of(loop: asyncio.AbstractEventLoop) -> Courier:
    if isinstance(loop, NativeMethods):
        found = loop._courier
    else:
        reference = _couriers.get(loop)
        found = reference() if reference else None
    if found is not None and found.fileno() >= 0:
        return found
    courier = Courier()
    loop.add_reader(courier.fileno(), courier.deliver)
    if isinstance(loop, NativeMethods):
        loop._courier = courier
    else:
        _couriers[loop] = weakref.ref(courier)
    return courier


async def _wait(watch: Callable[[Courier, asyncio.Future[Any]], Watch]) -> Any:
    loop = asyncio.get_running_loop()
    courier = _courier_of(loop)
    courier.join()
    try:
        future = loop.create_future()
        watching = watch(courier, future)
        try:
            return await future
        finally:
            watching.close()
    finally:
        if courier.leave() and not isinstance(loop, NativeMethods):
            if not loop.is_closed():
                loop.remove_reader(courier.fileno())
            courier.close()


async def wait_for_key(bus: Bus, key: str | bytes, timeout: float | None) -> NativeBuffer:
    """The body of `Bus.wait()`."""
    try:
        return bus.get(key)
    except (KeyError, BusBusyError):
        pass
    async with asyncio.timeout(timeout):
        view: NativeBuffer = await _wait(lambda courier, future: bus._watch(key, courier, future))
        return view


async def wait_for_arrival(channel: Channel, timeout: float | None) -> None:
    """The body of `Channel.wait()`."""

    def watch(courier: Courier, future: asyncio.Future[Any]) -> Watch:
        watching = channel._watch(courier, future)
        # What came before the watch is not announced.
        if len(channel) or channel.closed:
            future.set_result(None)
        return watching

    if len(channel) or channel.closed:
        return
    async with asyncio.timeout(timeout):
        await _wait(watch)


_NOTHING = object()


async def take_from(channel: Channel, timeout: float | None) -> Any:
    """The body of `Channel.get()`."""
    async with asyncio.timeout(timeout):
        while (value := channel.pop(_NOTHING)) is _NOTHING:
            await wait_for_arrival(channel, None)
        return value


async def next_of(channel: Channel) -> Any:
    """The next value for `async for`, which ends when the channel is closed and empty."""
    try:
        return await take_from(channel, None)
    except ChannelClosedError:
        raise StopAsyncIteration from None
