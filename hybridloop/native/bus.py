"""Waiting for the memory bus and for channels, on any event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .errors import BusBusyError, ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core import Bus, Channel, NativeBuffer, Waiter


async def _wait(add_waiter: Callable[[asyncio.Future[Any]], Waiter]) -> Any:
    future = asyncio.get_running_loop().create_future()
    waiter = add_waiter(future)
    try:
        return await future
    finally:
        waiter.close()


async def bus_wait(bus: Bus, key: str | bytes, timeout: float | None) -> NativeBuffer:
    """The body of `Bus.wait()`."""
    try:
        return bus.get(key)
    except (KeyError, BusBusyError):
        pass
    async with asyncio.timeout(timeout):
        view: NativeBuffer = await _wait(lambda future: bus._add_waiter(key, future))
        return view


async def channel_wait(channel: Channel, timeout: float | None) -> None:
    """The body of `Channel.wait()`."""

    def add_waiter(future: asyncio.Future[Any]) -> Waiter:
        waiter = channel._add_waiter(future)
        # A value pushed before the waiter was added does not wake it.
        if len(channel) or channel.closed:
            future.set_result(None)
        return waiter

    if len(channel) or channel.closed:
        return
    async with asyncio.timeout(timeout):
        await _wait(add_waiter)


_EMPTY = object()


async def channel_get(channel: Channel, timeout: float | None) -> Any:
    """The body of `Channel.get()`."""
    async with asyncio.timeout(timeout):
        while (value := channel.pop(_EMPTY)) is _EMPTY:
            await channel_wait(channel, None)
        return value


async def channel_next(channel: Channel) -> Any:
    """The body of `Channel.__anext__()`; iteration ends when the channel is closed and empty."""
    try:
        return await channel_get(channel, None)
    except ChannelClosedError:
        raise StopAsyncIteration from None
