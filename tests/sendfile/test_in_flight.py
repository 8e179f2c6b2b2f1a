"""What may happen to file, transport and peer while a file is being sent."""

import asyncio
import os

import pytest

from tests.support.streams import MIB, Recorder

# More than the buffers of both sockets take.
CONTENTS = os.urandom(MIB) * 4


async def started(loop, transport, file, *args):
    """A task that sends, and has sent as much as goes without a reader."""
    task = loop.create_task(loop.sendfile(transport, file, *args))
    for _ in range(30):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_slow_reader(loop, connect, make_file):
    transport, peer = await connect()
    transport.write(b"<")
    task = await started(loop, transport, make_file(CONTENTS))
    assert await peer.read_slowly(len(CONTENTS) + 1) == b"<" + CONTENTS
    assert await task == len(CONTENTS)
    transport.write(b">")
    assert await peer.read(1) == b">"


async def test_much_is_queued_before(loop, connect, make_file):
    """What was written before goes first."""
    transport, peer = await connect()
    transport.write(CONTENTS[:MIB])
    task = await started(loop, transport, make_file(CONTENTS))
    assert await peer.read_slowly(len(CONTENTS) + MIB) == CONTENTS[:MIB] + CONTENTS
    assert await task == len(CONTENTS)


async def test_writing_meanwhile_is_refused(loop, connect, tmp_path):
    transport, peer = await connect()
    path = tmp_path / "file"
    path.write_bytes(CONTENTS)
    with path.open("rb") as file:
        task = await started(loop, transport, file)
        with pytest.raises(RuntimeError, match="unable to write; sendfile is in progress"):
            transport.write(b"x")
        with pytest.raises(RuntimeError, match="unable to write(lines)?; sendfile is in progress"):
            transport.writelines([b"x"])
        assert await peer.read_slowly(len(CONTENTS)) == CONTENTS
        assert await task == len(CONTENTS)


@pytest.mark.improves_on_asyncio
async def test_two_files_at_once_are_refused(loop, connect, tmp_path):
    """The first is sent in whole."""
    transport, peer = await connect()
    path = tmp_path / "file"
    path.write_bytes(CONTENTS)
    with path.open("rb") as file:
        task = await started(loop, transport, file)
        with pytest.raises(RuntimeError, match="Empty waiter is already set"):
            await loop.sendfile(transport, file)
        assert await peer.read_slowly(len(CONTENTS)) == CONTENTS
        assert await task == len(CONTENTS)
    assert transport.is_reading()


@pytest.mark.parametrize("paused", [False, True])
async def test_reading_goes_on_as_before(loop, connect, make_file, eventually, paused):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    if paused:
        transport.pause_reading()
    task = await started(loop, transport, make_file(CONTENTS))
    peer.send(b"meanwhile")
    await peer.read_slowly(len(CONTENTS))
    await task
    assert transport.is_reading() is not paused
    transport.resume_reading()
    await eventually(lambda: protocol.data == b"meanwhile")


async def test_cancelled(loop, connect, make_file):
    """What was sent by then is the beginning of the file, and the transport works on."""
    transport, peer = await connect()
    task = await started(loop, transport, make_file(CONTENTS))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert transport.is_reading()
    transport.write(b"-end-")
    data = bytearray()
    while not data.endswith(b"-end-"):
        try:
            data += peer.sock.recv(MIB)
        except BlockingIOError:
            await asyncio.sleep(0)
    assert CONTENTS.startswith(data[:-5])


@pytest.mark.improves_on_asyncio
async def test_transport_after_a_cancelled_wait(loop, connect, make_file):
    transport, peer = await connect()
    transport.write(CONTENTS)
    task = await started(loop, transport, make_file(b"file"))
    task.cancel()
    await asyncio.wait([task])
    assert transport.is_reading()
    transport.write(b"after")
    assert await peer.read_slowly(len(CONTENTS) + 5) == CONTENTS + b"after"


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_peer_leaves(loop, connect_tcp, make_file, eventually, how):
    protocol = Recorder()
    transport, peer = await connect_tcp(protocol)
    task = await started(loop, transport, make_file(CONTENTS))
    getattr(peer, how)()
    with pytest.raises(ConnectionError):
        await task
    await eventually(lambda: protocol.lost)
    assert protocol.names.count("connection_lost") == 1


@pytest.mark.improves_on_asyncio
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_transport_is_closed(loop, connect, make_file, eventually, how):
    """The sender gets an exception, and nothing is sent after connection_lost()."""
    protocol = Recorder()
    transport, peer = await connect(protocol)
    task = await started(loop, transport, make_file(CONTENTS))
    getattr(transport, how)()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(task, 60)
    await eventually(lambda: protocol.lost)
    data = await peer.read_to_end()
    assert CONTENTS.startswith(data)
    assert len(data) < len(CONTENTS)


async def test_closing_transports_are_refused(loop, connect, make_file):
    transport, _ = await connect()
    transport.close()
    with pytest.raises(RuntimeError, match="Transport is closing"):
        await loop.sendfile(transport, make_file(CONTENTS))


@pytest.mark.parametrize("count", [None, len(CONTENTS) * 2])
async def test_file_that_grows(loop, connect, tmp_path, count):
    transport, peer = await connect()
    path = tmp_path / "file"
    path.write_bytes(CONTENTS)
    with path.open("rb") as file, path.open("ab") as growing:
        task = await started(loop, transport, file, 0, count)
        growing.write(b"more")
        growing.flush()
        data = await peer.read_slowly(len(CONTENTS))
        # As in asyncio, which goes on to the end of the file as it is then.
        assert data + await peer.read_slowly(4) == CONTENTS + b"more"
        assert await task == len(CONTENTS) + 4


async def test_file_that_shrinks(loop, connect, tmp_path):
    transport, peer = await connect()
    path = tmp_path / "file"
    path.write_bytes(CONTENTS)
    with path.open("rb") as file:
        task = await started(loop, transport, file)
        os.truncate(path, 3 * MIB)
        assert await peer.read_slowly(3 * MIB) == CONTENTS[: 3 * MIB]
        assert await task == 3 * MIB


async def test_several_connections_from_one_file(loop, connect, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENTS)
    pairs = [await connect() for _ in range(4)]
    with path.open("rb") as file:
        tasks = [await started(loop, transport, file) for transport, _ in pairs]
        received = await asyncio.gather(*(peer.read_slowly(len(CONTENTS)) for _, peer in pairs))
        assert await asyncio.gather(*tasks) == [len(CONTENTS)] * 4
    assert all(data == CONTENTS for data in received)
