"""`cork_interval`: how long what is written may be held back, and sending it at once."""

import asyncio
import math
import select
import threading
import time

import pytest

import hybridloop
from tests.support.streams import Recorder

pytestmark = pytest.mark.improves_on_asyncio

ALWAYS = 60.0


def arrived(peer):
    """What the peer has already, without an iteration of the loop."""
    try:
        return peer.sock.recv(100)
    except BlockingIOError:
        return b""


def arriving(peer):
    """What comes to the peer without an iteration of the loop, when the system delivers it."""
    select.select([peer.sock], [], [], 60)
    return arrived(peer)


def work(seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass


def test_default(loop_factory):
    loop = loop_factory()
    assert loop.cork_interval == pytest.approx(0.001)
    loop.close()


@pytest.mark.parametrize("value", [0.0, 0.25, ALWAYS, math.inf])
async def test_values(loop, connect, value):
    """New connections begin with the loop's; each can have its own."""
    loop.cork_interval = value
    assert loop.cork_interval == pytest.approx(value)
    transport, _ = await connect()
    assert transport.cork_interval == pytest.approx(value)
    loop.cork_interval = 1
    transport.cork_interval = 2
    assert (loop.cork_interval, transport.cork_interval) == pytest.approx((1, 2))


@pytest.mark.parametrize("value", [-1, math.nan, -math.inf])
async def test_odd_numbers_hold_nothing_back(loop, connect, value):
    transport, peer = await connect()
    transport.cork_interval = value
    assert transport.cork_interval == 0
    transport.write(b"data")
    assert arriving(peer) == b"data"


async def test_wrong_types(loop, connect):
    transport, _ = await connect()
    for owner in (loop, transport):
        with pytest.raises(TypeError):
            owner.cork_interval = "1"
        with pytest.raises((AttributeError, TypeError)):
            del owner.cork_interval


@pytest.mark.parametrize("of", ["loop", "transport"])
async def test_zero_sends_at_once(loop, connect, of):
    if of == "loop":
        loop.cork_interval = 0
    transport, peer = await connect()
    if of == "transport":
        transport.cork_interval = 0
    for write in (
        lambda: transport.write(b"data"),
        lambda: transport.write(bytearray(b"data")),
        lambda: transport.writelines([b"da", b"ta"]),
    ):
        write()
        assert transport.get_write_buffer_size() == 0
        assert arriving(peer) == b"data"


async def test_zero_sends_at_once_in_data_received(loop, connect):
    seen = []

    class Writing(Recorder):
        def data_received(self, data):
            for piece in (b"one", b"two"):
                self.transport.write(piece)
                seen.append(arriving(peer))

    transport, peer = await connect(Writing())
    transport.cork_interval = 0
    peer.send(b"request")
    while len(seen) < 2:
        await asyncio.sleep(0)
    assert seen == [b"one", b"two"]


async def test_other_connections_are_not_affected(loop, connect):
    transport, peer = await connect()
    other, other_peer = await connect()
    transport.cork_interval = 0
    other.write(b"later")
    transport.write(b"now")
    assert (arriving(peer), arrived(other_peer)) == (b"now", b"")
    assert await other_peer.read(5) == b"later"


async def test_setting_it_sends_what_waits(loop, connect):
    transport, peer = await connect()
    transport.write(b"data")
    transport.cork_interval = ALWAYS
    assert arrived(peer) == b""
    transport.cork_interval = 0
    assert arriving(peer) == b"data"
    transport.cork_interval = ALWAYS
    transport.write(b"more")
    assert arrived(peer) == b""
    assert await peer.read(4) == b"more"


async def test_after_the_end(loop, connect):
    transport, _ = await connect()
    transport.abort()
    await asyncio.sleep(0.01)
    transport.cork_interval = 0
    assert transport.cork_interval == 0


async def test_a_callback_that_runs_on(loop, connect):
    """What it writes after the interval leaves at once, with what it has written before."""
    loop.cork_interval = 0.02
    transport, peer = await connect()
    await asyncio.sleep(0)
    transport.cork_interval = ALWAYS
    transport.write(b"one ")
    assert arrived(peer) == b""
    transport.cork_interval = 0.02
    work(0.03)
    transport.write(b"two")
    assert arriving(peer) == b"one two"
    transport.write(b"three")
    assert arriving(peer) == b"three"


@pytest.mark.parametrize("how", ["call_soon", "timer", "events"])
async def test_callbacks_that_come_after(loop, connect, how):
    """What one callback writes does not wait for all others of a long iteration."""
    loop.cork_interval = 0.001
    seen = []
    transport, peer = await connect()
    transport.cork_interval = ALWAYS  # held back within the callback, not between callbacks

    def write():
        transport.write(b"data")
        assert arrived(peer) == b""
        work(0.002)

    def look():
        seen.append(arriving(peer))

    if how == "call_soon":
        loop.call_soon(write)
        loop.call_soon(look)
    elif how == "timer":
        when = loop.time() + 0.001
        loop.call_at(when, write)
        loop.call_at(when, look)
        work(0.002)
    else:
        protocols = [Recorder(), Recorder()]
        steps = iter((write, look))
        for protocol in protocols:
            protocol.data_received = lambda data: next(steps)()
            _, sender = await connect(protocol)
            sender.send(b"x")
        # One poll reports both.
        work(0.001)
    while not seen:
        await asyncio.sleep(0)
    assert seen == [b"data"]


async def test_streams(loop):
    """The writers of both packages have it by their transports."""
    for streams in (asyncio, hybridloop):
        received = []

        async def serve(reader, writer, received=received):
            received.append(await reader.read(100))
            writer.close()

        server = await streams.start_server(serve, "127.0.0.1", 0)
        _, writer = await streams.open_connection(*server.sockets[0].getsockname())
        writer.transport.cork_interval = 0
        writer.write(b"data")
        assert writer.transport.get_write_buffer_size() == 0
        while not received:
            await asyncio.sleep(0.001)
        assert received == [b"data"]
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()


ENDS = {
    "_exit": "os._exit(0)",
    "exec": "os.execv(sys.executable, [sys.executable, '-c', ''])",
    "signal": "os.kill(os.getpid(), signal.SIGKILL); time.sleep(10)",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_ends(start_script, end):
    """With 0 nothing is lost, however it ends; the last lines of a log, say."""
    process = start_script(
        f"""
        import socket
        ours, theirs = socket.socketpair()
        if not os.fork():
            theirs.close()
            async def main():
                loop = asyncio.get_running_loop()
                loop.cork_interval = 0
                transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
                transport.write(b"last words")
                {ENDS[end]}
            loop = new_event_loop()
            loop.run_until_complete(main())
        ours.close()
        print(theirs.recv(100))
        os.wait()
        """
    )
    out, err = process.communicate(timeout=300)
    assert out == "b'last words'\n", err


async def test_a_thread_may_set_it(loop, connect):
    """With a lock; what waits leaves from there."""
    transport, peer = await connect()
    transport.write(b"data")
    refused = []

    def change():
        try:
            transport.cork_interval = 0
        except RuntimeError as error:
            refused.append(error)

    thread = threading.Thread(target=change)
    thread.start()
    thread.join()
    if refused:
        assert arrived(peer) == b""
    else:
        assert arriving(peer) == b"data"
