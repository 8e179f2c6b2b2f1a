"""Attributes and replaced methods of transports, as tests set them, and the private `_extra`."""

import asyncio
import gc
import weakref
from unittest import mock

import pytest

from tests.conftest import LOOP_MODULE
from tests.support.streams import Recorder


async def connect_datagram(loop, opened, protocol=None):
    transport, _ = await loop.create_datagram_endpoint(
        lambda: protocol or asyncio.DatagramProtocol(), ("127.0.0.1", 0)
    )
    opened.append(transport)
    return transport


async def test_attributes_of_ones_own(loop, connect, opened):
    transport, _ = await connect()
    for each in transport, await connect_datagram(loop, opened):
        each.note = "kept"
        assert each.note == "kept"
        assert each.__dict__["note"] == vars(each)["note"] == "kept"
        del each.note
        assert not hasattr(each, "note")
        assert each.__dict__.get("note") is None


async def test_a_cycle_through_an_attribute_is_garbage(loop, connect, opened):
    class Note:
        pass

    notes = []
    transport, _ = await connect()
    for each in transport, await connect_datagram(loop, opened):
        each.note = Note()
        each.note.transport = each
        notes.append(weakref.ref(each.note))
        each.abort()
        opened.remove(each)
    for _ in range(3):
        await asyncio.sleep(0)
    del each, transport
    gc.collect()
    assert [note() for note in notes] == [None, None]


async def test_every_method_can_be_replaced(loop, connect, opened):
    transport, _ = await connect()
    for each in transport, await connect_datagram(loop, opened):
        names = [
            name
            for name in dir(each)
            if not name.startswith("__") and callable(getattr(type(each), name, None))
        ]
        assert "close" in names
        for name in names:
            before = getattr(each, name)
            with mock.patch.object(each, name) as replaced:
                assert getattr(each, name) is replaced
            assert getattr(each, name) == before


async def test_mock_in_the_place_of_write(connect, eventually):
    transport, peer = await connect()
    with mock.patch.object(transport, "write") as write:
        transport.write(b"not sent")
        write.assert_called_once_with(b"not sent")
    transport.write(b"sent")
    assert await peer.read(4) == b"sent"


async def test_a_replaced_close_is_called_at_the_end_of_the_data(connect, eventually):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.close = mock.Mock(wraps=transport.close)
    peer.close()
    await eventually(lambda: protocol.lost)
    transport.close.assert_called_once_with()


async def test_replaced_pausing_is_called_by_a_reader(loop, connect, eventually):
    reader = asyncio.StreamReader(limit=1, loop=loop)
    transport, peer = await connect(asyncio.StreamReaderProtocol(reader, loop=loop))
    transport.pause_reading = mock.Mock(wraps=transport.pause_reading)
    transport.resume_reading = mock.Mock(wraps=transport.resume_reading)
    peer.send(b"12345")
    await eventually(lambda: transport.pause_reading.called)
    assert await reader.read(5) == b"12345"
    transport.resume_reading.assert_called_once_with()


async def test_get_extra_info_replaced_in_asyncios_class(loop, connect_tcp, opened):
    transport, peer = await connect_tcp()
    for each in transport, await connect_datagram(loop, opened):
        with mock.patch("asyncio.BaseTransport.get_extra_info", return_value=("name", 1)) as get:
            assert each.get_extra_info("peername") == ("name", 1)
            get.assert_called_once_with("peername")
    assert transport.get_extra_info("peername") == peer.sock.getsockname()


async def test_get_extra_info_replaced_on_the_instance(connect):
    transport, _ = await connect()
    with mock.patch.object(transport, "get_extra_info", return_value="replaced"):
        assert transport.get_extra_info("socket") == "replaced"


async def test_extra(connect_tcp):
    transport, peer = await connect_tcp()
    assert isinstance(transport._extra, dict)
    assert transport._extra["peername"] == peer.sock.getsockname()
    assert transport._extra["socket"] is transport.get_extra_info("socket")
    transport._extra["more"] = 1
    assert transport.get_extra_info("more") == 1
    with pytest.raises(KeyError):
        transport._extra["nothing"]
    with mock.patch.dict(transport._extra, peername="replaced"):
        assert transport.get_extra_info("peername") == "replaced"
    assert transport.get_extra_info("peername") == peer.sock.getsockname()
    transport._extra = {"socket": transport.get_extra_info("socket"), "other": 2}
    assert transport.get_extra_info("other") == 2
    assert transport.get_extra_info("more") is None


async def test_extra_of_a_datagram_transport(loop, opened):
    transport = await connect_datagram(loop, opened)
    assert transport._extra["sockname"] == transport.get_extra_info("sockname")
    transport._extra["more"] = 1
    assert transport.get_extra_info("more") == 1


@pytest.mark.improves_on_asyncio
async def test_extra_does_not_keep_the_transport(connect, opened):
    transport, _ = await connect()
    extra = transport._extra
    assert transport.get_extra_info("sockname") == extra["sockname"]
    reference = weakref.ref(transport)
    transport.abort()
    for _ in range(3):
        await asyncio.sleep(0)
    opened.remove(transport)
    gc.disable()
    try:
        del transport
        assert reference() is None
    finally:
        gc.enable()
    assert extra.get("nothing", 1) == 1
    assert extra.get("sockname") is not None


@pytest.mark.skipif(LOOP_MODULE == "asyncio", reason="in asyncio these are the attributes")
async def test_slots_of_the_base_are_not_the_attributes(loop, connect):
    transport, _ = await connect()
    mixin = asyncio.transports._FlowControlMixin
    for name in "_loop", "_protocol_paused", "_high_water", "_low_water":
        value = getattr(transport, name)
        mixin.__dict__[name].__set__(transport, "something else")
        assert getattr(transport, name) == value
        assert mixin.__dict__[name].__get__(transport) == "something else"
    assert transport._loop is loop
