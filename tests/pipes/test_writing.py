"""connect_write_pipe() with everything that has a writing end."""

import asyncio
import os
import threading

import pytest

from tests.support.streams import MIB, Recorder, unix_pair

DATA = os.urandom(MIB)


def read_all(fd, received):
    os.set_blocking(fd, True)
    while chunk := os.read(fd, 65536):
        received.append(chunk)


async def test_data_and_close(loop, ends, connect_write, eventually):
    reading, writing = ends
    transport, protocol = await connect_write(writing)
    transport.write(b"hello")
    transport.write(bytearray(b" "))
    transport.write(memoryview(b"world"))
    transport.write(b"")
    assert os.read(reading, 100) == b"hello world"
    transport.close()
    await eventually(lambda: protocol.lost)
    assert os.read(reading, 100) == b""
    assert protocol.lost_exception is None


async def test_much_with_flow_control(loop, ends, connect_write, eventually):
    reading, writing = ends
    transport, protocol = await connect_write(writing)
    transport.write(DATA)
    assert "pause_writing" in protocol.names
    assert transport.get_write_buffer_size() > 0
    transport.writelines([DATA, b"end"])
    received = []
    thread = threading.Thread(target=read_all, args=(reading, received))
    thread.start()
    await eventually(lambda: "resume_writing" in protocol.names)
    transport.close()
    await eventually(lambda: protocol.lost)
    await asyncio.to_thread(thread.join)
    assert b"".join(received) == DATA + DATA + b"end"
    assert protocol.names.count("pause_writing") == protocol.names.count("resume_writing")


async def test_write_eof(loop, ends, connect_write, eventually):
    reading, writing = ends
    transport, protocol = await connect_write(writing)
    assert transport.can_write_eof()
    transport.write(b"last")
    transport.write_eof()
    await eventually(lambda: protocol.lost)
    assert os.read(reading, 100) == b"last"
    assert os.read(reading, 100) == b""


async def test_write_limits(loop, ends, connect_write):
    _, writing = ends
    transport, protocol = await connect_write(writing)
    transport.set_write_buffer_limits(high=10)
    assert transport.get_write_buffer_limits() == (2, 10)
    transport.write(DATA)
    assert "pause_writing" in protocol.names
    transport.abort()


async def test_reader_is_gone(loop, ends, connect_write, eventually):
    """Noticed without a write."""
    reading, writing = ends
    _, protocol = await connect_write(writing)
    os.close(reading)
    await eventually(lambda: protocol.lost)
    assert protocol.names[-1] == "connection_lost"


async def test_reader_goes_while_data_is_queued(loop, ends, connect_write, eventually):
    reading, writing = ends
    transport, protocol = await connect_write(writing)
    transport.write(DATA)
    os.close(reading)
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, (BrokenPipeError, ConnectionResetError))


async def test_write_to_a_pipe_without_a_reader(loop, connect_write, eventually):
    reading, writing = os.pipe()
    transport, protocol = await connect_write(writing)
    os.close(reading)
    transport.write(b"x")
    await eventually(lambda: protocol.lost)
    assert isinstance(protocol.lost_exception, BrokenPipeError)


async def test_writes_after_the_end_are_counted(loop, ends, connect_write, eventually, asyncio_log):
    reading, writing = ends
    transport, protocol = await connect_write(writing)
    os.close(reading)
    await eventually(lambda: protocol.lost)
    for _ in range(10):
        transport.write(b"x")
    assert set(asyncio_log.messages) == {
        "pipe closed by peer or os.write(pipe, data) raised exception."
    }


async def test_abort_drops_what_is_queued(loop, ends, connect_write, eventually):
    reading, writing = ends
    transport, protocol = await connect_write(writing)
    transport.write(DATA)
    transport.abort()
    await eventually(lambda: protocol.lost)
    received = []
    read_all(reading, received)
    assert len(b"".join(received)) < len(DATA)


async def test_terminal(loop, pseudo_terminal, connect_write, eventually):
    master, slave = pseudo_terminal
    transport, protocol = await connect_write(slave)
    transport.write(b"prompt> ")
    assert os.read(master, 100) == b"prompt> "
    transport.close()
    await eventually(lambda: protocol.lost)


async def test_reading_and_writing_one_terminal(
    loop, pseudo_terminal, connect_read, connect_write, eventually
):
    """Both directions by descriptors of their own, as libraries for prompts do it."""
    master, slave = pseudo_terminal
    reader, read = await connect_read(os.dup(slave))
    writer, written = await connect_write(slave)
    os.write(master, b"typed")
    writer.write(b"shown")
    await eventually(lambda: read.data == b"typed")
    assert os.read(master, 100) == b"shown"
    reader.close()
    writer.close()
    await eventually(lambda: read.lost and written.lost)


async def test_two_transports_on_one_end(loop, ends, connect_write, eventually):
    """Descriptors of their own for one pipe: both write, and closing one leaves the other."""
    reading, writing = ends
    first, first_protocol = await connect_write(os.dup(writing))
    second, second_protocol = await connect_write(writing)
    first.write(b"1")
    second.write(b"2")
    first.close()
    await eventually(lambda: first_protocol.lost)
    second.write(b"3")
    assert os.read(reading, 100) == b"123"
    second.close()
    await eventually(lambda: second_protocol.lost)
    assert os.read(reading, 100) == b""


def test_standard_output_twice(run_script):
    """Two write pipes on one descriptor, as when a library asks for stdout after the program."""
    done = run_script(
        """
        async def main():
            loop = asyncio.get_running_loop()
            writers = []
            for number in range(2):
                transport, protocol = await loop.connect_write_pipe(
                    asyncio.streams.FlowControlMixin, sys.stdout
                )
                writer = asyncio.StreamWriter(transport, protocol, None, loop)
                writer.write(b"line %d\\n" % number)
                await writer.drain()
                writers.append(writer)
            for number, writer in enumerate(writers):
                writer.write(b"again %d\\n" % number)
                await writer.drain()
            os._exit(0)

        loop = new_event_loop()
        loop.run_until_complete(main())
        """
    )
    assert done.stdout.splitlines() == ["line 0", "line 1", "again 0", "again 1"]


def test_standard_streams_stay_open_for_the_program(run_script):
    """Transports of copies that were never closed do not close them behind the program's back."""
    done = run_script(
        """
        async def main():
            loop = asyncio.get_running_loop()
            reading, writing = os.pipe()
            os.dup2(reading, 0)
            await loop.connect_read_pipe(asyncio.Protocol, os.fdopen(os.dup(0), "rb", 0))
            await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(os.dup(1), "wb", 0))

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        os.fstat(0)
        os.set_blocking(1, True)
        print("written")
        """
    )
    assert done.stdout == "written\n"


async def test_descriptor_in_use_by_a_transport(loop):
    """The number of a stream transport's socket is refused by add_reader(), as in asyncio."""
    ours, theirs = unix_pair()
    transport, _ = await loop.connect_accepted_socket(Recorder, ours)
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.add_reader(ours.fileno(), int)
    transport.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    theirs.close()
