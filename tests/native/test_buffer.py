"""NativeBuffer: immutable memory that is read without a copy."""

import ctypes
import gc
import operator
import struct
import sys

import numpy
import pytest

import hybridloop

pytestmark = pytest.mark.improves_on_asyncio


@pytest.fixture
def buffer(bus):
    bus.push("key", b"hello")
    return bus.get("key")


def test_looks_like_its_bytes(buffer):
    assert isinstance(buffer, hybridloop.NativeBuffer)
    assert len(buffer) == buffer.nbytes == 5
    assert bytes(buffer) == buffer.tobytes() == b"hello"
    assert (buffer.format, buffer.itemsize, buffer.shape) == ("B", 1, (5,))
    assert list(buffer) == buffer.tolist() == list(b"hello")
    assert ord("e") in buffer
    assert buffer[0] == buffer[-5] == ord("h")
    assert repr(buffer) == "<NativeBuffer of 5 bytes>"
    with pytest.raises(IndexError):
        buffer[5]
    with pytest.raises(TypeError):
        buffer["0"]


def test_slices_are_views_of_the_same_memory(buffer):
    part = buffer[1:3]
    assert type(part) is memoryview
    assert (part, part.readonly) == (b"el", True)
    whole = numpy.asarray(buffer)
    assert numpy.shares_memory(whole, numpy.asarray(part))


@pytest.mark.parametrize("other", [b"hello", bytearray(b"hello"), memoryview(b"hello")])
def test_equals_what_has_the_same_bytes(buffer, other):
    assert buffer == other
    assert other == buffer
    assert operator.ne(buffer, other) is False


@pytest.mark.parametrize("other", [b"hellO", b"hell", "hello", None, 5, [104]])
def test_differs_from_everything_else(buffer, other):
    assert buffer != other
    assert operator.eq(buffer, other) is False


def test_equals_another_one(bus, buffer):
    bus.push("same", b"hello")
    bus.push("other", b"HELLO")
    assert buffer == bus.get("same")
    assert buffer != bus.get("other")
    with pytest.raises(TypeError):
        buffer < bus.get("same")  # noqa: B015


def test_hashes_as_its_bytes(buffer):
    assert hash(buffer) == hash(b"hello")
    assert {buffer: 1}[buffer] == 1
    assert hash(memoryview(buffer)) == hash(b"hello")


def test_cannot_be_written(buffer):
    view = memoryview(buffer)
    assert view.readonly
    with pytest.raises(TypeError, match="read-only"):
        view[0] = 1
    with pytest.raises(TypeError):
        buffer[0] = 1
    array = numpy.asarray(buffer)
    assert not array.flags.writeable
    with pytest.raises(ValueError):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    with pytest.raises(TypeError, match="not writable"):
        (ctypes.c_char * 5).from_buffer(buffer)
    with pytest.raises((BufferError, TypeError)):
        struct.pack_into("B", buffer, 0, 1)
    with pytest.raises(AttributeError):
        buffer.format = "b"
    assert buffer == b"hello"


def test_nothing_is_a_buffer_too(bus):
    bus.push("empty", b"")
    empty = bus.get("empty")
    assert (len(empty), bytes(empty), list(empty)) == (0, b"", [])
    assert empty == b""
    assert memoryview(empty).nbytes == 0


def test_cannot_be_made_or_subclassed():
    with pytest.raises(TypeError):
        hybridloop.NativeBuffer()
    with pytest.raises(TypeError):
        type("Sub", (hybridloop.NativeBuffer,), {})


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python's view of buffers came with 3.12")
def test_is_a_buffer_to_python(buffer):
    from collections.abc import Buffer

    assert isinstance(buffer, Buffer)
    assert buffer.__buffer__(0) == b"hello"


def test_memory_is_charged_until_the_last_view_is_gone(engine):
    engine.bus.push("key", bytes(1000))
    buffer = engine.bus.get("key")
    view = memoryview(buffer)[10:20]
    array = numpy.asarray(view)
    assert engine.close() == []
    del buffer
    gc.collect()
    assert engine.stats()["memory"] == 1000
    del view
    assert engine.stats()["memory"] == 1000
    del array
    assert engine.stats()["memory"] == 0
