"""Reference cycles through the loop's objects are collected."""

import asyncio
import contextvars
import gc
import weakref

import pytest

FAR = 3600


class Owner:
    """Something that keeps the handle whose callback is its own method."""

    handle = None

    def callback(self, *args):
        pass


def assert_collected(reference):
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_handle_cycle_after_the_run(loop, iterate, method):
    owner = Owner()
    owner.handle = getattr(loop, method)(owner.callback, owner)
    reference = weakref.ref(owner)
    del owner
    iterate()
    assert_collected(reference)


def test_timer_cycle_after_firing(loop):
    owner = Owner()
    owner.handle = loop.call_later(0, owner.callback)
    reference = weakref.ref(owner)
    del owner
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert_collected(reference)


@pytest.mark.parametrize("count", range(6))
def test_cancelled_timer_cycles(loop, iterate, count):
    """`self.timer = loop.call_later(..., self.method)`, cancelled and dropped."""
    references = []
    for _ in range(100):
        owner = Owner()
        owner.handle = loop.call_later(FAR, owner.callback, *([owner] * count))
        owner.handle.cancel()
        references.append(weakref.ref(owner))
    del owner
    iterate()
    gc.collect()
    assert [reference() for reference in references] == [None] * 100


def test_scheduled_cycles_go_with_the_loop(loop_factory):
    references = []
    loop = loop_factory()
    for schedule in (
        lambda owner: loop.call_soon(owner.callback),
        lambda owner: loop.call_soon_threadsafe(owner.callback),
        lambda owner: loop.call_later(FAR, owner.callback),
    ):
        owner = Owner()
        owner.loop = loop
        owner.handle = schedule(owner)
        references.append(weakref.ref(owner))
    references.append(weakref.ref(loop))
    loop.close()
    owner = schedule = loop = None
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


def test_loop_that_refers_to_itself(loop_factory):
    loop = loop_factory()
    loop.myself = loop
    loop.set_exception_handler(loop.default_exception_handler)
    loop.set_task_factory(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop))
    loop.call_later(FAR, loop.stop)
    reference = weakref.ref(loop)
    loop.close()
    del loop
    assert_collected(reference)


def test_context_cycle(loop, iterate):
    """A context whose variable holds the handle that holds the context."""
    var = contextvars.ContextVar("var")
    context = contextvars.copy_context()
    owner = Owner()
    owner.handle = loop.call_soon(int, context=context)
    context.run(var.set, owner)
    reference = weakref.ref(owner)
    iterate()
    del owner, context
    assert_collected(reference)


def test_reader_cycle(loop, socket_pair):
    ours, _ = socket_pair
    owner = Owner()
    owner.loop = loop
    owner.socket = ours
    loop.add_reader(ours, owner.callback, owner)
    loop.remove_reader(ours)
    reference = weakref.ref(owner)
    del owner
    assert_collected(reference)


def test_transport_and_protocol_cycle(loop, socket_pair):
    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

    async def main():
        ours, theirs = socket_pair
        transport, protocol = await loop.connect_accepted_socket(Protocol, ours)
        references = [weakref.ref(transport), weakref.ref(protocol)]
        transport.write(b"x" * 100)
        transport.close()
        return references

    references = loop.run_until_complete(main())
    loop.run_until_complete(asyncio.sleep(0.001))
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_server_cycle(loop):
    class Protocol(asyncio.Protocol):
        server = None

    async def main():
        server = await loop.create_server(Protocol, "127.0.0.1", 0)
        server.myself = server
        reference = weakref.ref(server)
        server.close()
        await server.wait_closed()
        return reference

    assert_collected(loop.run_until_complete(main()))


def test_finished_tasks_are_freed_without_the_collector(loop):
    """asyncio code makes no cycles in normal work: neither may the loop."""

    class Payload:
        pass

    references = []

    async def work(payload):
        references.append(weakref.ref(payload))
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)

    async def main():
        await asyncio.gather(*(work(Payload()) for _ in range(20)))

    gc.disable()
    try:
        loop.run_until_complete(main())
        loop.run_until_complete(asyncio.sleep(0))
        assert [reference() for reference in references] == [None] * 20
    finally:
        gc.enable()


def test_collecting_in_the_middle_of_everything(loop, socket_pair):
    """The collector may run inside any callback."""
    ours, theirs = socket_pair
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:

        async def main():
            reader, writer = await asyncio.open_connection(sock=ours)
            for number in range(50):
                theirs.send(b"%d\n" % number)
                assert await reader.readline() == b"%d\n" % number
                writer.write(b"answer\n")
                loop.call_later(FAR, list, [number]).cancel()
                await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()

        loop.run_until_complete(main())
    finally:
        gc.set_threshold(*threshold)
    assert theirs.recv(1000) == b"answer\n" * 50


def test_no_objects_pile_up(loop, iterate):
    """Ten thousand of everything, and the count of live objects is as before."""

    async def work():
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future
        loop.call_later(FAR, int).cancel()
        await asyncio.sleep(0)

    async def main():
        for _ in range(1000):
            await work()

    loop.run_until_complete(main())
    iterate()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(10):
        loop.run_until_complete(main())
    iterate()
    gc.collect()
    assert len(gc.get_objects()) - before < 100
