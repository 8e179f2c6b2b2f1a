"""Other threads use a running loop at the same time, private attributes of handles included."""

import asyncio
import contextlib
import contextvars
import threading
import time

import pytest

from hybridloop import metrics

pytestmark = [
    pytest.mark.improves_on_asyncio,
    pytest.mark.usefixtures("clean_end"),
]

SECONDS = 0.5


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


@contextlib.contextmanager
def others(*bodies):
    """Threads that do the same over and over; their exceptions are raised at the end."""
    end = threading.Event()
    errors = []

    def repeat(body):
        try:
            while not end.is_set():
                body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


async def work(loop, seconds=SECONDS):
    """Callbacks, timers, tasks and I/O, for some time."""
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        timers = [loop.call_later(0.001 * i, int) for i in range(20)]
        writer.write(b"x" * 100)
        await asyncio.gather(reader.readexactly(100), *(asyncio.sleep(0) for _ in range(20)))
        for timer in timers[::2]:
            timer.cancel()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def test_statistics_while_it_works(loop):
    def look():
        stats = loop.stats()
        assert stats.timers < 100_000 and stats.transports <= 3
        metrics.snapshot()

    with others(loop.stats, look):
        loop.run_until_complete(work(loop))


def test_callbacks_from_many_threads(loop, eventually):
    """Each runs once, in the context it was made in."""
    variable = contextvars.ContextVar("variable")
    made = [0] * 4
    ran = [0] * 4

    def callback(number):
        assert variable.get() == number
        ran[number] += 1

    def push(number):
        variable.set(number)
        for _ in range(50):
            loop.call_soon_threadsafe(callback, number)
            made[number] += 1
        # Let the loop run.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(60)

    async def run():
        pushers = others(*(lambda number=number: push(number) for number in range(4)))
        pushers.__enter__()
        await work(loop)
        await eventually(lambda: all(made))
        # They wait for the loop, which must not wait for them.
        await loop.run_in_executor(None, pushers.__exit__, None, None, None)

    loop.run_until_complete(run())
    loop.run_until_complete(asyncio.sleep(0))
    assert ran == made


def test_handles_cancelled_by_other_threads(loop):
    """A handle runs or is cancelled, and the thread that cancels it sees a whole one."""
    handles = []
    ran = []

    def cancel():
        while handles:
            with contextlib.suppress(IndexError):
                handle = handles.pop()
                repr(handle)
                handle.cancel()
                assert handle.cancelled()
                callback = handle._callback
                assert callback is None or callback == ran.append

    async def make():
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for i in range(50):
                handles.append(loop.call_soon(ran.append, i))
                handles.append(loop.call_later(0.001, ran.append, i))
            await asyncio.sleep(0)

    with others(cancel, cancel):
        loop.run_until_complete(make())
    loop.run_until_complete(asyncio.sleep(0.01))
    assert loop.stats().timers == 0


def test_looking_at_a_transport(loop):
    async def main():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        transport, _ = await loop.create_connection(
            asyncio.Protocol, *server.sockets[0].getsockname()
        )
        name = transport.get_extra_info("sockname")

        def look():
            assert transport.get_extra_info("sockname") == name
            assert transport.get_extra_info("socket").fileno() >= 0
            assert not transport.is_closing()
            assert transport.get_write_buffer_size() >= 0
            repr(transport)

        with others(look, look):
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                transport.write(b"x" * 1000)
                await asyncio.sleep(0)
        transport.close()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())


def test_two_threads_cannot_run_it(loop, run_until):
    """The second is refused, also when it comes at the very same moment."""
    refused = []

    def run():
        try:
            loop.run_until_complete(asyncio.sleep(0))
        except RuntimeError as error:
            refused.append(str(error))

    async def main():
        await loop.run_in_executor(None, run)

    with pytest.warns(RuntimeWarning):  # the coroutine that did not run
        loop.run_until_complete(main())
    assert len(refused) == 1
