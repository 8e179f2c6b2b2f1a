"""Blocks, values of channels and results as arrays: types, shapes, and views of other libraries."""

import array
import ctypes
import gc
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridloop import BusFullError, Channel, NativeBuffer
from hybridloop._core import NativeEngine

from . import capsules
from .capsules import READ_ONLY, Arrow, Legacy, Tensor, Versioned
from .support import LIMIT, LOOPS, run

numpy = pytest.importorskip("numpy")

pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.usefixtures("clean_end")]

INTS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
NUMBERS = [*INTS, "float16", "float32", "float64"]
DTYPES = [*map(numpy.dtype, ["bool", *NUMBERS, "complex64", "complex128"])]
OTHERS = [*map(numpy.dtype, [">f8", ">i2", "S5", "U2", "i4,f8", "S2,(2,3)f4"])]


@pytest.fixture(autouse=True)
def all_is_given_back():
    before = set(capsules.alive)
    yield
    gc.collect()
    assert set(capsules.alive) <= before


@pytest.fixture(scope="module")
def stores():
    """Ways to push an object and to get it back."""
    engine, channel = NativeEngine(native_threads=1), Channel()

    def by_bus(value):
        engine.bus.push("key", value)
        back = engine.bus.get("key")
        engine.run_native("hl.bus.discard", "key").result(LIMIT)
        return back

    def by_channel(value):
        channel.push(value)
        return channel.pop()

    yield by_bus, by_channel
    assert engine.close(LIMIT) == []


def address(value):
    return numpy.asarray(value).ctypes.data


def shapes(most=4):
    return st.lists(st.integers(0, 4), max_size=most).map(tuple)


@st.composite
def arrays(draw, dtypes):
    dtype, shape = draw(st.sampled_from(dtypes)), draw(shapes())
    size = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype.kind == "b":
        data = bytes(byte & 1 for byte in data)
    return numpy.frombuffer(bytearray(data), dtype, math.prod(shape)).reshape(shape)


@given(value=arrays(DTYPES + OTHERS))
def test_what_is_pushed_keeps_its_type_and_shape(stores, value):
    for store in stores:
        back = store(value)
        assert isinstance(back, NativeBuffer)
        assert (back.shape, back.itemsize) == (value.shape, value.itemsize)
        seen = numpy.asarray(back)
        assert (seen.dtype, seen.shape) == (value.dtype, value.shape)
        assert seen.tobytes() == value.tobytes() == bytes(back)
        assert not seen.flags.writeable
        view = memoryview(back)
        assert (view.format, view.shape) == (memoryview(value).format, value.shape)
        # Again: it is shared.
        again = store(back)
        assert address(again) == address(back)
        assert (numpy.asarray(again).dtype, again.shape) == (value.dtype, value.shape)


@given(value=arrays(DTYPES))
def test_results_are_tensors(stores, value):
    back = stores[1](value)
    seen = numpy.from_dlpack(back)
    assert (seen.dtype, seen.shape) == (value.dtype, value.shape)
    assert seen.tobytes() == value.tobytes()
    assert not seen.flags.writeable
    if value.size:
        assert seen.ctypes.data == address(back)
    copy = numpy.from_dlpack(back, copy=True)
    assert copy.flags.writeable
    copy[...] = 1
    assert bytes(back) == value.tobytes()


@given(value=arrays(DTYPES), order=st.permutations(range(4)))
def test_tensors_of_any_strides_are_taken(stores, value, order):
    # In numpy's order of the protocols its arrays are buffers; this has DLPack only.
    axes = [axis for axis in order if axis < value.ndim]
    value = value.transpose(axes)
    tensor = OnlyDlpack(value)
    for store in stores:
        if value.flags.c_contiguous:
            back = numpy.asarray(store(tensor))
            assert (back.dtype, back.shape) == (value.dtype, value.shape)
            assert back.tobytes() == value.tobytes()
        else:
            with pytest.raises(BufferError, match="C-contiguous"):
                store(tensor)


class OnlyDlpack:
    def __init__(self, value):
        self.value = value

    def __dlpack__(self, **keywords):
        return self.value.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.value.__dlpack_device__()


def test_other_buffers_keep_their_types(stores):
    class Point(ctypes.Structure):
        _fields_ = [("x", ctypes.c_int64), ("y", ctypes.c_double)]

    points = (Point * 2)(Point(1, 2.5), Point(3, 4.5))
    for store in stores:
        back = store(array.array("d", [1.5, 2.5]))
        assert (back.format, back.tolist()) == ("d", [1.5, 2.5])
        assert len(back) == 2
        assert back[1] == 2.5
        back = store((ctypes.c_int16 * 3 * 2)((1, 2, 3), (4, 5, 6)))
        assert numpy.asarray(back).tolist() == [[1, 2, 3], [4, 5, 6]]
        back = numpy.asarray(store(points))
        assert back["y"].tolist() == [2.5, 4.5]
        back = store(memoryview(bytes(range(6))).cast("B", (2, 3)))
        assert back.tolist() == [[0, 1, 2], [3, 4, 5]]
        one = store(numpy.array(5.5))
        assert (one.shape, one.tolist(), numpy.asarray(one)) == ((), 5.5, 5.5)


def test_what_has_no_format_is_bytes(stores):
    for value in (
        numpy.array(["2026-11-30", "2027-01-01"], "M8[D]").reshape(1, 2),
        numpy.array(5, "m8[s]"),
        numpy.array([], "M8[s]"),
    ):
        with pytest.raises(ValueError, match="buffer"):
            memoryview(value)
        for store in stores:
            back = store(value)
            assert (back.format, back.shape) == ("B", (value.nbytes,))
            assert bytes(back) == value.tobytes()
            assert (numpy.frombuffer(back, value.dtype) == value.ravel()).all()


def test_a_part_of_an_array_is_bytes(bus):
    value = numpy.arange(6.0).reshape(2, 3)
    bus.push("part", value, 16)
    bus.push("all", value, size=48)
    bus.push("shared", bus.get("all"), 9)
    for key, size in ("part", 16), ("all", 48), ("shared", 9):
        back = bus.get(key)
        assert (back.format, back.shape) == ("B", (size,))
        assert back == value.tobytes()[:size]
    with pytest.raises(ValueError, match="only 48 bytes"):
        bus.push("more", value, 49)


def test_what_refers_to_objects_is_refused(stores):
    for store in stores:
        for value in (
            numpy.array([[]], object),
            numpy.zeros(2, "f8,O"),
            numpy.zeros(2, [("Open", "f8"), ("x", [("y", object)])]),
        ):
            with pytest.raises(BufferError, match="refer to Python objects"):
                store(value)
        assert numpy.asarray(store(numpy.ones(2, [("Open", "f8")])))["Open"].tolist() == [1, 1]


def test_a_kernel_gets_the_type_from_the_bus_and_channels(engine):
    value = numpy.arange(4, dtype=numpy.float32).reshape(2, 2)
    engine.bus.push("key", value)
    assert engine.run_native("hl.sum", engine.bus.get("key")).result(LIMIT) == 6.0
    channel = Channel()
    channel.push(value)
    assert engine.run_native("hl.sum", channel.pop()).result(LIMIT) == 6.0
    channel.push(numpy.array(2.5))
    assert engine.run_native("hl.sum", channel.pop()).result(LIMIT) == 2.5


DOUBLES = [1.5, 2.5, 3.5]


def doubles():
    return (ctypes.c_double * 3)(*DOUBLES)


CONSTANTS = {
    "arrow": (lambda: Arrow(doubles(), 2, offset=1), 8, (2,)),
    "tensor": (lambda: Tensor(doubles(), [1, 3], flags=READ_ONLY), 0, (1, 3)),
}


@pytest.mark.parametrize("kind", CONSTANTS)
@pytest.mark.parametrize("store", [0, 1])
def test_memory_that_never_changes_is_shared(stores, kind, store):
    make, offset, shape = CONSTANTS[kind]
    value = make()
    start = ctypes.addressof(value.data)
    back = stores[store](value)
    gc.collect()
    assert address(back) == start + offset
    assert (back.format, back.shape) == ("d", shape)
    assert memoryview(back).tolist() == numpy.array(DOUBLES[offset // 8 :]).reshape(shape).tolist()
    assert ended(value) == 0
    del back
    gc.collect()
    assert ended(value) == 1


def ended(value):
    return value.released if isinstance(value, Arrow) else value.deleted


@pytest.mark.parametrize("flags", [None, 0])
def test_memory_that_may_change_is_copied(stores, flags):
    for store in stores:
        value = Tensor(doubles(), [3, 1], flags=flags)
        back = store(value)
        assert value.deleted == 1
        value.data[0] = 77.0
        assert back.tolist() == [[1.5], [2.5], [3.5]]


def test_shared_memory_counts_and_is_given_back_once():
    engine = NativeEngine(native_threads=1, bus_capacity=40, memory=1000)
    first, second = Arrow(doubles(), 3), Arrow(doubles(), 3)
    engine.bus.push("key", first)
    assert (engine.stats()["memory"], engine.bus.stats()["bytes"]) == (24, 24)
    with pytest.raises(BusFullError):
        engine.bus.push("other", second)
    assert (first.released, second.released) == (0, 1)
    third = Arrow(doubles(), 3)
    assert not engine.bus.try_push("key", third)
    assert third.released == 1
    # A worker drops it, so it waits for a thread that may run Python.
    assert engine.run_native("hl.bus.discard", "key").result(LIMIT) is True
    engine.run_native("hl.noop").result(LIMIT)
    assert first.released == 1
    assert engine.stats()["memory"] == 0
    last = Arrow(doubles(), 3)
    engine.bus.push("last", last)
    view = engine.bus.get("last")
    assert engine.close(LIMIT) == []
    assert last.released == 0
    thread = threading.Thread(target=lambda views=[view]: views.clear())
    del view
    thread.start()
    thread.join()
    del thread
    gc.collect()
    assert last.released == 1


@pytest.mark.parametrize("loop", ["hybridloop", "asyncio"])
def test_what_a_kernel_drops_is_given_back_when_it_has_ended(engine, loop):
    value = Arrow(doubles(), 3)
    engine.bus.push("key", value)

    async def main():
        assert await engine.run_native("hl.bus.discard", "key") is True
        assert value.released == 1

    run(main(), LOOPS[loop])


def test_a_channel_gives_back_what_it_drops():
    channel, values = Channel(limit=1), [Arrow(doubles(), 3) for _ in range(3)]
    channel.push(values[0])
    with pytest.raises(Exception, match="full"):
        channel.push(values[1])
    assert [value.released for value in values] == [0, 1, 0]
    assert channel.flush() == 1
    channel.push(values[2])
    del channel
    gc.collect()
    assert [value.released for value in values] == [1, 1, 1]


def result(value=(1.5, 2.5), format="d"):
    channel = Channel()
    channel.push(array.array(format, value))
    return channel.pop()


def test_capsules_say_what_they_are():
    buffer = result()
    assert buffer.__dlpack_device__() == (1, 0)
    for version in (1, 0), (1, 5), (2, 0):
        capsule = buffer.__dlpack__(max_version=version, dl_device=(1, 0), stream=None, copy=False)
        pointer = capsules.capsule_pointer(capsule, capsules.DLTENSOR_VERSIONED)
        managed = Versioned.from_address(pointer)
        assert (managed.major, managed.minor, managed.flags) == (1, 0, READ_ONLY)
        tensor = managed.tensor
        assert (tensor.ndim, tensor.shape[0], tensor.strides[0]) == (1, 2, 1)
        assert (tensor.code, tensor.bits, tensor.lanes) == (2, 64, 1)
        assert tensor.data == address(buffer)
    for keywords in ({}, {"max_version": None}, {"max_version": (0, 8)}):
        with pytest.raises(BufferError, match="read-only"):
            buffer.__dlpack__(**keywords)
        capsule = buffer.__dlpack__(**keywords, copy=True)
        pointer = capsules.capsule_pointer(capsule, capsules.DLTENSOR)
        tensor = Legacy.from_address(pointer).tensor
        assert tensor.data != address(buffer)
        assert ctypes.c_double.from_address(tensor.data).value == 1.5
    with pytest.raises(BufferError, match="stream"):
        buffer.__dlpack__(stream=1, max_version=(1, 0))
    with pytest.raises(BufferError, match=r"\(2, 0\)"):
        buffer.__dlpack__(dl_device=(2, 0), max_version=(1, 0))
    for wrong in ({"max_version": 1}, {"dl_device": 1}, {"copy": "yes"}):
        with pytest.raises(TypeError):
            buffer.__dlpack__(**{"max_version": (1, 0), **wrong})


def test_a_tensor_keeps_the_memory_until_it_is_deleted():
    engine = NativeEngine(native_threads=1, memory=1 << 20)
    memory = lambda: engine.stats()["memory"]  # noqa: E731
    back = engine.run_native("hl.sha256", b"x").result(LIMIT)
    # Nobody takes these.
    back.__dlpack__(max_version=(1, 0))
    back.__arrow_c_array__()
    back.__arrow_c_schema__()
    seen = numpy.from_dlpack(back)
    capsule = back.__dlpack__(max_version=(1, 0))
    pointer = capsules.capsule_pointer(capsule, capsules.DLTENSOR_VERSIONED)
    capsules.capsule_set_name(capsule, capsules.USED_VERSIONED)
    del capsule
    expected = bytes(back)
    del back
    gc.collect()
    assert memory() == 32
    assert seen.tobytes() == expected
    del seen
    managed = Versioned.from_address(pointer)
    assert ctypes.string_at(managed.tensor.data, 32) == expected
    # Any thread may delete it, also without Python's lock.
    thread = threading.Thread(target=managed.deleter, args=(pointer,))
    thread.start()
    thread.join()
    assert memory() == 0
    assert engine.close(LIMIT) == []


def test_an_arrow_array_keeps_the_memory_until_it_is_released():
    for format, name in zip("bBhHiIqQfd", b"cCsSiIlLfg", strict=True):
        back = result((1, 2), format)
        schema, capsule = back.__arrow_c_array__(requested_schema=None)
        pointer = capsules.capsule_pointer(schema, capsules.ARROW_SCHEMA)
        assert capsules.ArrowSchema.from_address(pointer).format == bytes([name])
        pointer = capsules.capsule_pointer(capsule, capsules.ARROW_ARRAY)
        moved = capsules.ArrowArray.from_buffer_copy(
            ctypes.string_at(pointer, ctypes.sizeof(capsules.ArrowArray))
        )
        capsules.ArrowArray.from_address(pointer).release = capsules.Release()
        start, values = address(back), back.tolist()
        del back, schema, capsule
        gc.collect()
        assert (moved.length, moved.null_count, moved.n_buffers) == (2, 0, 2)
        assert moved.buffers[0] is None
        assert moved.buffers[1] == start
        itemsize = array.array(format).itemsize
        content = ctypes.string_at(start, 2 * itemsize)
        assert array.array(format, content).tolist() == values
        moved.release(ctypes.addressof(moved))
        assert not moved.release


def test_what_others_have_no_type_for_is_refused(stores):
    for value, arrow in (
        (numpy.zeros(2, ">f8"), True),
        (numpy.zeros(2, "S3"), True),
        (numpy.zeros(2, "i4,f8"), True),
        (numpy.zeros(2, bool), False),
        (numpy.zeros(2, complex), False),
    ):
        back = stores[1](value)
        with pytest.raises(BufferError, match="Arrow has no type"):
            back.__arrow_c_array__()
        if arrow:
            with pytest.raises(BufferError, match="DLPack has no type"):
                back.__dlpack__(max_version=(1, 0))
    for shape in (), (2, 3):
        back = stores[1](numpy.zeros(shape))
        for export in back.__arrow_c_array__, back.__arrow_c_schema__:
            with pytest.raises(BufferError, match=f"has {len(shape)}$"):
                export()


@given(value=arrays([*map(numpy.dtype, NUMBERS)]))
def test_arrays_of_arrow_libraries(stores, value):
    nanoarrow = pytest.importorskip("nanoarrow")
    flat = value.ravel()
    back = stores[1](flat)
    made = nanoarrow.c_array(back)
    assert numpy.asarray(made.view().buffer(1)).tobytes() == flat.tobytes()
    again = stores[0](made)
    assert (again.shape, numpy.asarray(again).dtype) == (flat.shape, flat.dtype)
    if flat.size:
        assert address(again) == address(back)
