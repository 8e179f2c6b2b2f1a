"""Protocols that raise, or that return what they must not, wherever a transport calls them."""

from __future__ import annotations

import asyncio
from typing import Any

from scenario import (
    CASES,
    Client,
    Errors,
    Expected,
    Recorder,
    async_case,
    check_service,
    main,
    serving,
    until,
)

__all__ = ["CASES"]


class FirstIs:
    """A protocol factory whose first product is another one."""

    def __init__(self, first: Any) -> None:
        self.first = first
        self.made: list[Any] = []

    def __call__(self) -> Any:
        self.made.append(self.first() if not self.made else Recorder())
        return self.made[-1]


async def first_connection_is_lost(errors: Errors, first: Any, kind: type[BaseException]) -> Any:
    """The first connection's protocol fails on data: only that connection is closed."""
    factory = FirstIs(first)
    async with serving(factory) as port:
        client = Client(port)
        await client.send(b"data")
        await errors.wait_for(kind)
        assert await client.ended()
        protocol = factory.made[0]
        await until(lambda: protocol.lost)
        assert [type(exc) for exc in protocol.lost] == [kind]
        assert errors.contexts[0]["protocol"] is protocol
        assert errors.contexts[0]["transport"] is protocol.transport
        client.close()
        await check_service(port)
    assert len(errors.contexts) == 1, errors.contexts
    return protocol


@async_case
async def factory_raises(errors: Errors) -> None:
    calls = 0

    def factory() -> Recorder:
        nonlocal calls
        calls += 1
        if calls <= 5:
            raise Expected
        return Recorder()

    errors.forget_all()
    async with serving(factory) as port:
        for _ in range(5):
            client = Client(port)
            await client.ended_after_collection()
            client.close()
        await check_service(port)


@async_case
async def factory_returns_none(errors: Errors) -> None:
    factory = FirstIs(lambda: None)
    async with serving(factory) as port:
        client = Client(port)
        await until(lambda: factory.made)
        await check_service(port)
        client.close()


@async_case
async def factory_is_no_callable(errors: Errors) -> None:
    errors.forget_all()
    async with serving(42) as port:  # type: ignore[arg-type]
        client = Client(port)
        await client.ended_after_collection()
        client.close()
        async with serving(Recorder) as other:
            await check_service(other)


@async_case
async def connection_made_raises(errors: Errors) -> None:
    class Bad(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            raise Expected

    factory = FirstIs(Bad)
    async with serving(factory) as port:
        client = Client(port)
        await errors.wait_for(Expected)
        # The connection stays, as in asyncio.
        assert await client.ask(b"data") == b"data"
        client.close()
        await until(lambda: "lost" in factory.made[0].calls)
        await check_service(port)
    assert len(errors.contexts) == 1


@async_case
async def data_received_raises(errors: Errors) -> None:
    class Bad(Recorder):
        def data_received(self, data: bytes) -> None:
            raise Expected

    await first_connection_is_lost(errors, Bad, Expected)


@async_case
async def data_received_raises_after_write(errors: Errors) -> None:
    class Bad(Recorder):
        def data_received(self, data: bytes) -> None:
            self.transport.write(b"x" * 1000)
            raise Expected

    await first_connection_is_lost(errors, Bad, Expected)


@async_case
async def data_received_recurses(errors: Errors) -> None:
    class Bad(Recorder):
        def data_received(self, data: bytes) -> None:
            self.data_received(data)

    await first_connection_is_lost(errors, Bad, RecursionError)


@async_case
async def data_received_is_no_method(errors: Errors) -> None:
    class Bad(Recorder):
        data_received = None  # type: ignore[assignment]

    await first_connection_is_lost(errors, Bad, TypeError)


@async_case
async def eof_received_raises(errors: Errors) -> None:
    class Bad(Recorder):
        def eof_received(self) -> bool | None:
            raise Expected

    factory = FirstIs(Bad)
    async with serving(factory) as port:
        client = Client(port)
        assert await client.ask(b"data") == b"data"
        client.sock.shutdown(1)
        await errors.wait_for(Expected)
        assert await client.ended()
        await until(lambda: factory.made[0].lost)
        assert type(factory.made[0].lost[0]) is Expected
        client.close()
        await check_service(port)
    assert len(errors.contexts) == 1


@async_case
async def connection_lost_raises(errors: Errors) -> None:
    class Bad(Recorder):
        def connection_lost(self, exc: BaseException | None) -> None:
            super().connection_lost(exc)
            raise Expected

    async with serving(Bad) as port:
        for end in ("close", "reset"):
            client = Client(port)
            assert await client.ask(b"data") == b"data"
            getattr(client, end)()
        await errors.wait_for(Expected, 2)
        await check_service(port)
        await errors.wait_for(Expected, 3)


@async_case
async def connection_lost_raises_on_abort(errors: Errors) -> None:
    class Bad(Recorder):
        def data_received(self, data: bytes) -> None:
            self.transport.abort()

        def connection_lost(self, exc: BaseException | None) -> None:
            raise Expected

    async with serving(FirstIs(Bad)) as port:
        client = Client(port)
        await client.send(b"data")
        assert await client.ended()
        await errors.wait_for(Expected)
        await check_service(port)
        client.close()


class Flood(Recorder):
    """Writes more than the socket takes."""

    size = 8 << 20

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"x" * self.size)


@async_case
async def pause_writing_raises(errors: Errors) -> None:
    class Bad(Flood):
        def pause_writing(self) -> None:
            raise Expected

    async with serving(FirstIs(Bad)) as port:
        client = Client(port)
        await client.send(b"data")
        await errors.wait_for(Expected)
        assert len(await client.receive(Flood.size)) == Flood.size
        client.close()
        await check_service(port)
    assert len(errors.contexts) == 1


@async_case
async def resume_writing_raises(errors: Errors) -> None:
    class Bad(Flood):
        def pause_writing(self) -> None:
            self.calls.append("pause")

        def resume_writing(self) -> None:
            raise Expected

    factory = FirstIs(Bad)
    async with serving(factory) as port:
        client = Client(port)
        await client.send(b"data")
        await until(lambda: factory.made and "pause" in factory.made[0].calls)
        assert len(await client.receive(Flood.size)) == Flood.size
        await errors.wait_for(Expected)
        client.close()
        await check_service(port)
    assert len(errors.contexts) == 1


@async_case
async def pause_writing_aborts(errors: Errors) -> None:
    class Bad(Flood):
        def pause_writing(self) -> None:
            self.transport.abort()
            self.transport.write(b"too late")

    factory = FirstIs(Bad)
    async with serving(factory) as port:
        client = Client(port)
        await client.send(b"data")
        await until(lambda: factory.made and factory.made[0].lost)
        assert await client.ended()
        client.close()
        await check_service(port)
    assert errors.contexts == []


class Buffered(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self.lost: list[BaseException | None] = []
        self.buffer: Any = bytearray(100)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> Any:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.append(exc)


def buffered(buffer: Any) -> Any:
    def make() -> Buffered:
        protocol = Buffered()
        protocol.buffer = buffer
        return protocol

    return make


@async_case
async def get_buffer_raises(errors: Errors) -> None:
    class Bad(Buffered):
        def get_buffer(self, sizehint: int) -> Any:
            raise Expected

    await first_connection_is_lost(errors, Bad, Expected)


@async_case
async def get_buffer_returns_an_empty_buffer(errors: Errors) -> None:
    await first_connection_is_lost(errors, buffered(bytearray()), RuntimeError)


@async_case
async def get_buffer_returns_no_buffer(errors: Errors) -> None:
    await first_connection_is_lost(errors, buffered(None), TypeError)


@async_case
async def buffer_updated_raises(errors: Errors) -> None:
    class Bad(Buffered):
        def buffer_updated(self, nbytes: int) -> None:
            raise Expected

    await first_connection_is_lost(errors, Bad, Expected)


@async_case
async def buffer_is_read_only(errors: Errors) -> None:
    factory = FirstIs(buffered(b"read-only"))
    async with serving(factory) as port:
        client = Client(port)
        await client.send(b"data")
        assert await client.ended()
        await until(lambda: factory.made[0].lost)
        assert factory.made[0].lost[0] is not None
        client.close()
        await check_service(port)


@async_case
async def buffer_is_resized_while_it_is_filled(errors: Errors) -> None:
    """A bytearray that is exported can't be resized; it can be between two reads."""

    class Bad(Buffered):
        def get_buffer(self, sizehint: int) -> Any:
            self.buffer.clear()
            self.buffer += bytes(50)
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            data = bytes(self.buffer[:nbytes])
            self.buffer.clear()
            self.transport.write(data)

    async with serving(Bad) as port:
        client = Client(port)
        assert await client.ask(b"a" * 1000) == b"a" * 1000
        client.close()
    assert errors.contexts == []


@async_case
async def protocol_is_swapped_in_every_callback(errors: Errors) -> None:
    class Swapping(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.swap()

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)
            self.swap()

        def swap(self) -> None:
            other = Buffered() if isinstance(self, Recorder) else Swapping()
            other.transport = self.transport
            self.transport.set_protocol(other)

    class SwappingBuffered(Buffered):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            other = Swapping()
            other.transport = self.transport
            self.transport.set_protocol(other)

    for first in (Swapping, SwappingBuffered):
        async with serving(first) as port:
            client = Client(port)
            for number in range(20):
                assert await client.ask(b"%4d" % number) == b"%4d" % number
            client.close()
    assert errors.contexts == []


@async_case
async def transport_is_ended_in_every_callback(errors: Errors) -> None:
    def protocol(callback: str, end: str) -> type[Recorder]:
        def ending(self: Recorder, *args: Any) -> Any:
            result = getattr(Recorder, callback)(self, *args)
            getattr(self.transport, end)()
            self.transport.write(b"after the end")
            self.transport.close()
            self.transport.abort()
            return result

        return type("Ending", (Recorder,), {callback: ending})

    for callback in ("connection_made", "data_received", "eof_received", "connection_lost"):
        for end in ("close", "abort"):
            factory = FirstIs(protocol(callback, end))
            async with serving(factory) as port:
                client = Client(port)
                try:
                    await client.send(b"data")
                    client.sock.shutdown(1)
                except OSError:
                    assert callback == "connection_made"
                assert await client.ended()
                await until(lambda made=factory.made: made[0].lost)
                assert len(factory.made[0].lost) == 1
                client.close()
                await check_service(port)
    assert errors.contexts == []


@async_case
async def writelines_after_abort(errors: Errors) -> None:
    """What comes too late is dropped, and does not touch the next owner of the descriptor."""

    class Late(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.abort()
            self.transport.writelines([b"too", b"late"])

    for _ in range(3):
        async with serving(FirstIs(Late)) as port:
            client = Client(port)
            assert await client.ended()
            client.close()
            await check_service(port)
    assert errors.contexts == []


if __name__ == "__main__":
    main()
