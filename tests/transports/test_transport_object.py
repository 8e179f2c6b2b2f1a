"""Transports as objects: types, extra info, repr, protocol, other threads, private attributes."""

import asyncio
import gc
import socket
import threading
import weakref

import pytest

from tests.support.streams import Recorder


async def test_types(loop, connect):
    transport, _ = await connect()
    assert isinstance(transport, asyncio.Transport)
    assert isinstance(transport, asyncio.ReadTransport)
    assert isinstance(transport, asyncio.WriteTransport)
    assert isinstance(transport, asyncio.BaseTransport)


async def test_socket_info(loop, connect):
    transport, peer = await connect()
    sock = transport.get_extra_info("socket")
    assert sock.fileno() >= 0
    assert sock.family == peer.sock.family
    assert sock.type == socket.SOCK_STREAM
    assert sock.gettimeout() == 0
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM


async def test_socket_info_is_asyncios_transport_socket(loop, connect):
    transport, _ = await connect()
    sock = transport.get_extra_info("socket")
    assert type(sock).__name__ == "TransportSocket"
    for forbidden in ("recv", "send", "close", "accept", "connect"):
        assert not hasattr(sock, forbidden)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    duplicate = sock.dup()
    duplicate.close()


async def test_names(loop, connect_tcp):
    transport, peer = await connect_tcp()
    assert transport.get_extra_info("sockname") == peer.sock.getpeername()
    assert transport.get_extra_info("peername") == peer.sock.getsockname()


async def test_names_of_unix_sockets(loop, connect):
    transport, peer = await connect()
    if peer.sock.family == socket.AF_UNIX:
        assert transport.get_extra_info("sockname") == ""
        assert transport.get_extra_info("peername") == ""


async def test_default_of_extra_info(loop, connect):
    transport, _ = await connect()
    assert transport.get_extra_info("nonsense") is None
    assert transport.get_extra_info("nonsense", "default") == "default"
    assert transport.get_extra_info(name="nonsense", default=1) == 1
    assert transport.get_extra_info("sslcontext") is None


async def test_extra_info_after_close(loop, connect, eventually):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    names = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    transport.close()
    await eventually(lambda: protocol.lost)
    assert (transport.get_extra_info("sockname"), transport.get_extra_info("peername")) == names
    assert transport.get_extra_info("socket").fileno() == -1


async def test_peer_gone_before_the_transport_is_made(loop, make_pair, eventually):
    ours, theirs = make_pair()
    theirs.close()
    transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
    transport.get_extra_info("peername")
    await eventually(lambda: protocol.lost)


async def test_questions_from_another_thread(loop, connect):
    """Read-only methods answer in any thread."""
    transport, peer = await connect()
    answers = {}

    def ask():
        answers["socket"] = transport.get_extra_info("socket").fileno()
        answers["peername"] = transport.get_extra_info("peername")
        answers["closing"] = transport.is_closing()
        answers["reading"] = transport.is_reading()
        answers["size"] = transport.get_write_buffer_size()
        answers["limits"] = transport.get_write_buffer_limits()
        answers["protocol"] = transport.get_protocol()
        answers["repr"] = repr(transport)

    thread = threading.Thread(target=ask)
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.001)
    assert answers["socket"] == transport.get_extra_info("socket").fileno()
    assert answers["peername"] == transport.get_extra_info("peername")
    assert answers["closing"] is False
    assert answers["reading"] is True
    assert answers["size"] == 0
    assert answers["limits"] == (16 * 1024, 64 * 1024)
    assert answers["protocol"] is transport.get_protocol()
    assert f"fd={answers['socket']}" in answers["repr"]


async def test_last_reference_dropped_in_another_thread(loop, make_pair, eventually):
    ours, theirs = make_pair()
    transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
    transport.close()
    theirs.close()
    await eventually(lambda: protocol.lost)
    holder = [transport, protocol]
    references = [weakref.ref(it) for it in holder]
    protocol.transport = None
    protocol.calls.clear()
    transport = protocol = None
    thread = threading.Thread(target=holder.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert [reference() for reference in references] == [None, None]


async def test_repr(loop, connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    await asyncio.sleep(0)
    fd = transport.get_extra_info("socket").fileno()
    name = type(transport).__name__
    assert repr(transport) == f"<{name} fd={fd} read=polling write=<idle, bufsize=0>>"
    transport.pause_reading()
    assert repr(transport) == f"<{name} fd={fd} read=idle write=<idle, bufsize=0>>"
    transport.write(b"x" * 10_000_000)
    await asyncio.sleep(0)
    size = transport.get_write_buffer_size()
    assert repr(transport) == f"<{name} fd={fd} read=idle write=<polling, bufsize={size}>>"
    transport.close()
    assert repr(transport).startswith(f"<{name} closing fd={fd} ")
    transport.abort()
    await eventually(lambda: protocol.lost)
    assert repr(transport).startswith(f"<{name} closed fd=")


async def test_protocol_accessors(loop, connect):
    protocol, other = Recorder(), Recorder()
    transport, _ = await connect(protocol)
    assert transport.get_protocol() is protocol
    assert transport.set_protocol(other) is None
    assert transport.get_protocol() is other


async def test_new_protocol_gets_no_connection_made(loop, connect, eventually):
    protocol, other = Recorder(), Recorder()
    transport, peer = await connect(protocol)
    transport.set_protocol(other)
    peer.send(b"for the new one")
    await eventually(lambda: other.data)
    assert other.names == ["data_received"]
    assert protocol.names == ["connection_made"]


async def test_protocol_swapped_in_data_received(loop, connect, eventually):
    """An upgrade: what the first protocol read it hands over itself."""
    upgraded = Recorder()

    class Upgrading(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.set_protocol(upgraded)

    first = Upgrading()
    _, peer = await connect(first)
    peer.send(b"upgrade")
    await eventually(lambda: first.data == b"upgrade")
    peer.send(b"frame")
    await eventually(lambda: upgraded.data == b"frame")


async def test_weak_reference_and_attributes(loop, connect):
    transport, _ = await connect()
    assert weakref.ref(transport)() is transport
    assert hash(transport) == hash(transport)
    assert transport == transport
    assert {transport: 1}[transport] == 1


async def test_attributes_some_libraries_read(loop, connect):
    transport, _ = await connect()
    assert transport._loop is loop
    assert transport._sock.fileno() == transport.get_extra_info("socket").fileno()


async def test_debug_mode(loop, connect, eventually, caplog):
    """The debug log lines need repr and the like in all states."""
    loop.set_debug(True)
    loop.slow_callback_duration = 10
    with caplog.at_level("DEBUG", "asyncio"):
        protocol = Recorder()
        transport, peer = await connect(protocol)
        transport.pause_reading()
        transport.resume_reading()
        peer.send(b"data")
        await eventually(lambda: protocol.data)
        peer.close()
        await eventually(lambda: protocol.lost)
    messages = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    for expected in ("pauses reading", "resumes reading", "received EOF"):
        assert any(message.endswith(expected) for message in messages), messages


@pytest.mark.parametrize("method", ["pause_reading", "resume_reading", "close", "abort"])
async def test_methods_take_no_arguments(loop, connect, method):
    transport, _ = await connect()
    with pytest.raises(TypeError):
        getattr(transport, method)("unexpected")
