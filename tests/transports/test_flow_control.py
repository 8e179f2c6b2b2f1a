"""The write buffer: marks, pausing, honest sizes. And pausing of reading."""

import asyncio

import pytest

from tests.support.streams import MIB, Recorder
from tests.support.waiting import iterations_of_a_rest


def events(protocol):
    return [name for name in protocol.names if name.endswith("_writing")]


def pauses_at(protocol, transport):
    """Note the buffer size at each flow control callback."""
    sizes = []
    protocol.pause_writing = lambda: sizes.append(("pause", transport.get_write_buffer_size()))
    protocol.resume_writing = lambda: sizes.append(("resume", transport.get_write_buffer_size()))
    return sizes


async def test_default_limits(loop, connect):
    transport, _ = await connect()
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ({}, (16 * 1024, 64 * 1024)),
        ({"high": 100}, (25, 100)),
        ({"low": 100}, (100, 400)),
        ({"high": 0}, (0, 0)),
        ({"high": 10, "low": 10}, (10, 10)),
        ({"high": 10, "low": 0}, (0, 10)),
        ({"high": 10**12, "low": 5}, (5, 10**12)),
    ],
)
async def test_setting_limits(loop, connect, arguments, limits):
    transport, _ = await connect()
    assert transport.set_write_buffer_limits(**arguments) is None
    assert transport.get_write_buffer_limits() == limits


async def test_limits_by_position(loop, connect):
    transport, _ = await connect()
    transport.set_write_buffer_limits(200, 100)
    assert transport.get_write_buffer_limits() == (100, 200)


@pytest.mark.parametrize(("high", "low"), [(10, 20), (-1, None), (10, -1), (-5, -10)])
async def test_invalid_limits(loop, connect, high, low):
    transport, _ = await connect()
    effective_low = high // 4 if low is None else low
    with pytest.raises(ValueError) as caught:
        transport.set_write_buffer_limits(high=high, low=low)
    assert str(caught.value) == f"high ({high!r}) must be >= low ({effective_low!r}) must be >= 0"
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)


async def test_buffer_size_is_honest(loop, connect):
    """What is not in the kernel's hands counts; what the reader took no longer does."""
    transport, peer = await connect()
    assert transport.get_write_buffer_size() == 0
    total = 8 * MIB
    transport.write(b"x" * total)
    await asyncio.sleep(0)
    pending = transport.get_write_buffer_size()
    assert 0 < pending < total
    received = len(await peer.read_slowly(2 * MIB))
    assert transport.get_write_buffer_size() <= pending
    transport.write(b"y" * 1000)
    received += len(await peer.read(total + 1000 - received))
    assert received == total + 1000
    assert transport.get_write_buffer_size() == 0


async def test_pending_writes_add_up(loop, connect):
    transport, peer = await connect()
    transport.write(b"x" * 8 * MIB)
    await asyncio.sleep(0)
    before = transport.get_write_buffer_size()
    for count in range(1, 11):
        transport.write(b"y" * 1000)
        assert transport.get_write_buffer_size() == before + 1000 * count
    transport.abort()


async def test_pause_and_resume_at_the_marks(loop, connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    sizes = pauses_at(protocol, transport)
    total = 16 * MIB
    transport.write(b"x" * total)
    await asyncio.sleep(0)
    assert [name for name, _ in sizes] == ["pause"]
    assert sizes[0][1] > 64 * 1024
    await peer.read(total)
    assert [name for name, _ in sizes] == ["pause", "resume"]
    assert sizes[1][1] <= 16 * 1024


async def test_own_marks(loop, connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    sizes = pauses_at(protocol, transport)
    transport.set_write_buffer_limits(high=3 * MIB, low=1 * MIB)
    sent = 0
    while not sizes:
        transport.write(b"x" * 100_000)
        sent += 100_000
        await asyncio.sleep(0)
    assert sizes == [("pause", pytest.approx(3 * MIB, abs=200_000))]
    assert sizes[0][1] > 3 * MIB
    received = 0
    while len(sizes) == 1:
        received += len(await peer.read_slowly(64 * 1024))
    assert sizes[1][0] == "resume"
    assert sizes[1][1] <= MIB
    received += len(await peer.read(sent - received))
    assert received == sent


async def test_pausing_repeats_for_each_crossing(loop, connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    for _ in range(3):
        transport.write(b"x" * 8 * MIB)
        await peer.read(8 * MIB)
        await asyncio.sleep(0)
    assert events(protocol) == ["pause_writing", "resume_writing"] * 3


async def test_only_one_pause_while_over_the_mark(loop, connect):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    for _ in range(10):
        transport.write(b"x" * 4 * MIB)
    await asyncio.sleep(0)
    assert events(protocol) == ["pause_writing"]
    transport.abort()


async def test_high_mark_of_zero_pauses_as_soon_as_anything_waits(loop, connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.set_write_buffer_limits(high=0)
    transport.write(b"x" * 8 * MIB)
    await asyncio.sleep(0)
    assert events(protocol) == ["pause_writing"]
    await peer.read(8 * MIB)
    await asyncio.sleep(0)
    assert events(protocol) == ["pause_writing", "resume_writing"]


async def test_small_writes_do_not_pause(loop, connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    for _ in range(200):
        transport.write(b"x" * 100)
    assert await peer.read(20_000) == b"x" * 20_000
    assert events(protocol) == []


async def test_lowering_the_marks_below_what_is_pending(loop, connect):
    """set_write_buffer_limits pauses at once when the buffer is over the new mark."""
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.set_write_buffer_limits(high=64 * MIB)
    transport.write(b"x" * 16 * MIB)
    await asyncio.sleep(0)
    assert events(protocol) == []
    transport.set_write_buffer_limits(high=1000)
    assert events(protocol) == ["pause_writing"]
    await peer.read(16 * MIB)
    await asyncio.sleep(0)
    assert events(protocol) == ["pause_writing", "resume_writing"]


async def test_write_from_resume_writing(loop, connect):
    """A producer that fills the buffer in resume_writing loses nothing."""
    chunks = 40

    class Producer(Recorder):
        produced = 0
        paused = False

        def pause_writing(self):
            super().pause_writing()
            self.paused = True

        def resume_writing(self):
            super().resume_writing()
            self.paused = False
            self.produce()

        def produce(self):
            while not self.paused and self.produced < chunks:
                self.produced += 1
                self.transport.write(bytes([self.produced]) * MIB)

    protocol = Producer()
    _, peer = await connect(protocol)
    protocol.produce()
    assert protocol.produced < chunks
    received = await peer.read(chunks * MIB)
    assert received == b"".join(bytes([number]) * MIB for number in range(1, chunks + 1))
    assert events(protocol).count("resume_writing") > 1


@pytest.mark.parametrize("callback", ["pause_writing", "resume_writing"])
async def test_exception_in_flow_control_is_reported(loop, connect, unhandled, callback):
    error = ZeroDivisionError("broken")

    def broken():
        raise error

    protocol = Recorder()
    setattr(protocol, callback, broken)
    transport, peer = await connect(protocol)
    transport.write(b"x" * 8 * MIB)
    assert await peer.read(8 * MIB) == b"x" * 8 * MIB
    await asyncio.sleep(0)
    (context,) = unhandled
    assert context == {
        "message": f"protocol.{callback}() failed",
        "exception": error,
        "transport": transport,
        "protocol": protocol,
    }


async def test_slow_reader_gets_every_byte(loop, connect):
    transport, peer = await connect()
    data = bytes(range(256)) * (16 * MIB // 256)
    transport.write(data)
    assert await peer.read_slowly(len(data)) == data


async def test_reading_states(loop, connect):
    transport, _ = await connect()
    assert transport.is_reading() is True
    transport.pause_reading()
    assert transport.is_reading() is False
    transport.pause_reading()
    assert transport.is_reading() is False
    transport.resume_reading()
    assert transport.is_reading() is True
    transport.resume_reading()
    assert transport.is_reading() is True
    transport.close()
    assert transport.is_reading() is False
    transport.pause_reading()
    transport.resume_reading()
    assert transport.is_reading() is False


async def test_pause_reading_stops_data(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.pause_reading()
    peer.send(b"held back")
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert protocol.data == b""
    transport.resume_reading()
    await eventually(lambda: protocol.data == b"held back")


async def test_pausing_with_data_already_on_its_way(loop, connect, eventually):
    """The readiness was seen before the pause; the data must not come through all the same."""
    protocol = Recorder()
    transport, peer = await connect(protocol)
    for _ in range(20):
        peer.send(b"x")
        transport.pause_reading()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        before = len(protocol.data)
        await asyncio.sleep(0.001)
        assert len(protocol.data) == before
        transport.resume_reading()
        await eventually(lambda before=before: len(protocol.data) > before or before)
    await eventually(lambda: len(protocol.data) == 20)


async def test_pausing_in_data_received(loop, connect, eventually):
    class OneAtATime(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    protocol = OneAtATime()
    transport, peer = await connect(protocol)
    await peer.send_all(b"x" * 100_000)
    total = 100_000
    while len(protocol.data) < total:
        before = len(protocol.data)
        await eventually(lambda before=before: len(protocol.data) > before)
        count = protocol.names.count("data_received")
        await asyncio.sleep(0.001)
        assert protocol.names.count("data_received") == count
        transport.resume_reading()
    assert len(protocol.data) == total


async def test_pause_and_resume_in_one_go(loop, connect, eventually):
    class Flickering(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()
            self.transport.resume_reading()

    protocol = Flickering()
    _, peer = await connect(protocol)
    await peer.send_all(b"x" * 500_000)
    await eventually(lambda: len(protocol.data) == 500_000)


async def test_eof_waits_while_reading_is_paused(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.pause_reading()
    peer.send(b"last")
    peer.close()
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert protocol.names == ["connection_made"]
    transport.resume_reading()
    await eventually(lambda: protocol.lost)
    assert protocol.names[1:] == ["data_received", "eof_received", "connection_lost"]
    assert protocol.data == b"last"


async def test_a_paused_transport_still_writes(loop, connect):
    transport, peer = await connect()
    transport.pause_reading()
    transport.write(b"x" * 3_000_000)
    assert await peer.read(3_000_000) == b"x" * 3_000_000


async def test_a_paused_transport_does_not_spin(loop, connect, eventually):
    """Unread data under a pause must not wake the loop over and over."""
    transport, peer = await connect()
    transport.pause_reading()
    peer.send(b"x" * 100)
    await asyncio.sleep(0.01)
    assert await iterations_of_a_rest(loop) < 20


async def test_sender_and_receiver_on_one_loop(loop, make_pair, opened, eventually):
    """Two transports of the same loop, 16 MiB, flow control at both ends."""
    ours, theirs = make_pair()
    sender, receiver = Recorder(), Recorder()
    sending, _ = await loop.connect_accepted_socket(lambda: sender, ours)
    receiving, _ = await loop.connect_accepted_socket(lambda: receiver, theirs)
    opened += [sending, receiving]
    data = bytes(range(256)) * (16 * MIB // 256)
    sending.write(data)
    sending.write_eof()
    await eventually(lambda: receiver.lost)
    assert receiver.data == data
