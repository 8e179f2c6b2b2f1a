"""Waiting for the memory bus and for channels, on any event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .errors import BusBusyError, ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core import Bus, Channel, NativeBuffer, Watch


async def _wait(watch: Callable[[asyncio.Future[Any]], Watch]) -> Any:
    future = asyncio.get_running_loop().create_future()
    watching = watch(future)
    try:
        return await future
    finally:
        watching.close()


async def bus_wait(bus: Bus, key: str | bytes, timeout: float | None) -> NativeBuffer:
    """The body of `Bus.wait()`."""
    try:
        return bus.get(key)
    except (KeyError, BusBusyError):
        pass
    async with asyncio.timeout(timeout):
        view: NativeBuffer = await _wait(lambda future: bus._watch(key, future))
        return view


async def channel_wait(channel: Channel, timeout: float | None) -> None:
    """The body of `Channel.wait()`."""

    def watch(future: asyncio.Future[Any]) -> Watch:
        watching = channel._watch(future)
        # What came before the watch is not announced.
        if len(channel) or channel.closed:
            future.set_result(None)
        return watching

    if len(channel) or channel.closed:
        return
    async with asyncio.timeout(timeout):
        await _wait(watch)


_EMPTY = object()


async def channel_get(channel: Channel, timeout: float | None) -> Any:
    """The body of `Channel.get()`."""
    async with asyncio.timeout(timeout):
        while (value := channel.pop(_EMPTY)) is _EMPTY:
            await channel_wait(channel, None)
        return value


async def channel_next(channel: Channel) -> Any:
    """The next value for `async for`, which ends when the channel is closed and empty."""
    try:
        return await channel_get(channel, None)
    except ChannelClosedError:
        raise StopAsyncIteration from None
