"""The connections of a client to one worker of Dask."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from distributed.comm.core import connect as connect_comm

from . import values
from .backend import Reply, WorkerInfo
from .errors import KernelLostError, decode_error
from .plugin import NAME, PROTOCOL, Comm

connect: Any = connect_comm

MISSES = 3
"""How many pings in a row a worker may leave without an answer."""

_CONNECT_TIMEOUT = 10.0
# A worker that has just started gets the plugin a moment after it is known to the scheduler.
_PLUGIN_DELAYS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
_NO_PLUGIN = (
    "the plugin of hybridloop is not there: install hybridloop on the worker, and look into its log"
)
_OTHER_VERSION = "it has another version of hybridloop"


class Link:
    """Two connections: large arguments on the one do not delay pings and cancels on the other."""

    def __init__(
        self,
        address: str,
        session: str,
        options: dict[str, Any],
        on_progress: Mapping[int, Callable[[int, int], object]],
    ) -> None:
        self.address = address
        self._session = session
        self._options = options
        self._on_progress = on_progress
        self._comms: list[Comm] = []
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pong = asyncio.Event()
        self._info: WorkerInfo | None = None
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Set to the reason."""

    @property
    def info(self) -> WorkerInfo:
        """The worker, with the statistics of its last ping."""
        assert self._info is not None
        return self._info

    async def open(self, libraries: Sequence[str], ping: float | None) -> WorkerInfo:
        """Connect. Raises `OSError`; afterwards `close()` is needed in any case."""
        greeting = await self._connect()
        (control,) = self._comms
        if greeting is None or greeting.get("protocol") != PROTOCOL:
            problem = _NO_PLUGIN if greeting is None else _OTHER_VERSION
            self._info = WorkerInfo(self.address, 1, {}, problem=problem)
            self._start(self._wait_for_plugin(control) if greeting is None else self._read(control))
            return self._info
        await control.write({"op": "kernels", "libraries": list(libraries)})
        found = await control.read()
        failed = [
            f"{library!r} cannot be loaded: {why}" for library, why in found["failed"].items()
        ]
        self._info = WorkerInfo(
            self.address,
            greeting["threads"],
            found["kernels"],
            required=frozenset(found["required"]),
            problem="; ".join(failed) or None,
        )
        if await self._connect() is None:
            raise ConnectionError("the worker is closing")
        for comm in self._comms:
            self._start(self._read(comm))
        if ping:
            self._start(self._watch(control, ping))
        return self._info

    async def call(self, message: dict[str, Any]) -> asyncio.Future[Reply]:
        """Send a call. The future gets its reply, or an error if the worker is lost."""
        number = message["id"]
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if self.lost.done():
            reply.set_result(self._lost_reply("the kernel did not run"))
            return reply
        self._replies[number] = reply
        try:
            await self._comms[1].write({"op": "run", **message})
        except OSError as error:
            self.close(f"the connection is broken: {error}")
        except BaseException:
            # It cannot be encoded, and nothing was sent.
            del self._replies[number]
            raise
        return reply

    def cancel(self, number: int) -> None:
        """Cancel a call."""
        if not self.lost.done():
            self._start(self._comms[0].write({"op": "cancel", "id": number}))

    def close(self, reason: str) -> None:
        """Disconnect. Calls that have no reply are lost."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        for comm in self._comms:
            comm.abort()
        for task in self._tasks:
            task.cancel()
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            if not reply.done():
                reply.set_result(self._lost_reply("the kernel may have run"))

    def _lost_reply(self, consequence: str) -> Reply:
        reason = self.lost.result()
        return Reply(
            error=KernelLostError(f"worker {self.address} was lost, {consequence}: {reason}")
        )

    async def _connect(self) -> dict[str, Any] | None:
        """Open one connection; returns the worker's greeting if it has the plugin."""
        comm = await connect(self.address, timeout=_CONNECT_TIMEOUT, **self._options)
        comm.name = "hybridloop.cluster"
        comm.allow_offload = False
        self._comms.append(comm)
        for delay in _PLUGIN_DELAYS:
            if (greeting := await self._greet(comm)) is not None:
                return greeting
            await asyncio.sleep(delay)
        return await self._greet(comm)

    async def _greet(self, comm: Comm) -> dict[str, Any] | None:
        await comm.write({"op": NAME, "protocol": PROTOCOL, "session": self._session})
        greeting: dict[str, Any] | None = await comm.read()
        return greeting

    async def _wait_for_plugin(self, control: Comm) -> None:
        """A worker may be slower than was expected."""
        while await self._greet(control) is None:
            await asyncio.sleep(_PLUGIN_DELAYS[-1])
        self.close("it has the plugin now")

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            await coroutine
        except Exception as error:
            # Not only OSError: what cannot be read is no connection, either.
            self.close(f"the connection is broken: {error}")
        except asyncio.CancelledError:
            self.close("the connection was closed")
            raise

    async def _read(self, comm: Comm) -> None:
        while True:
            self._handle(await comm.read())

    def _handle(self, message: dict[str, Any]) -> None:
        if message.get("op") == "pong":
            self._info = dataclasses.replace(self.info, engine=message["engine"])
            self._pong.set()
            return
        number = message["id"]
        if (progress := message.get("progress")) is not None:
            if on_progress := self._on_progress.get(number):
                on_progress(*progress)
        elif (reply := self._replies.pop(number, None)) and not reply.done():
            try:
                decoded = decode_reply(message, message.get("frames", ()))
            except Exception as error:
                decoded = Reply(error=error)
            reply.set_result(decoded)

    async def _watch(self, control: Comm, interval: float) -> None:
        misses = 0
        while misses < MISSES:
            self._pong.clear()
            await control.write({"op": "ping"})
            try:
                # So that the last miss is noticed before four intervals have passed.
                async with asyncio.timeout(interval * 0.9):
                    await self._pong.wait()
            except TimeoutError:
                misses += 1
            else:
                misses = 0
                await asyncio.sleep(interval)
        self.close(f"it did not answer {MISSES} pings")


def decode_reply(content: dict[str, Any], frames: Sequence[Any]) -> Reply:
    """The reply in a message of a worker."""
    if content.get("cancelled"):
        return Reply(cancelled=True)
    if "error" in content:
        return Reply(error=decode_error(content["error"]))
    return Reply([_decode_outcome(part, frames) for part in content["values"]])


def _decode_outcome(part: Any, frames: Sequence[Any]) -> Any:
    if type(part) is tuple and part[0] == "error":
        return decode_error(part[1:])
    (value,) = values.decode([part], frames)
    return memoryview(value) if type(value) is bytes else value
