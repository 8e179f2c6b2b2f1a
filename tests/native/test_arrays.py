"""Arrays of other libraries, by DLPack and Arrow, as arguments of kernels."""

import asyncio
import ctypes
import gc
import time

import pytest

import hybridloop
from hybridloop import BufferInUseError, NativeClosedError
from hybridloop._core import NativeEngine

from . import capsules
from .capsules import IS_COPIED, READ_ONLY, Arrow, Tensor
from .support import LIMIT

numpy = pytest.importorskip("numpy")

pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.usefixtures("clean_end")]


@pytest.fixture(autouse=True)
def all_is_given_back():
    before = set(capsules.alive)
    yield
    gc.collect()
    assert set(capsules.alive) <= before


def doubles(*values):
    return (ctypes.c_double * len(values))(*values)


KINDS = {
    "dltensor": lambda: Tensor(doubles(1, 2, 4), [3]),
    "versioned": lambda: Tensor(doubles(1, 2, 4), [3], flags=0),
    "read-only": lambda: Tensor(doubles(1, 2, 4), [3], flags=READ_ONLY),
    "minor": lambda: Tensor(doubles(1, 2, 4), [3], flags=0, version=(1, 9)),
    "offset": lambda: Tensor(doubles(9, 1, 2, 4), [3], flags=0, offset=8),
    "strides": lambda: Tensor(doubles(1, 2, 4), [3, 1], strides=[1, 77], flags=0),
    "f32": lambda: Tensor((ctypes.c_float * 3)(1, 2, 4), [3], dtype=(2, 32, 1)),
    "arrow": lambda: Arrow(doubles(1, 2, 4), 3),
    "arrow offset": lambda: Arrow(doubles(9, 1, 2, 4, 9), 3, offset=1),
    "arrow valid": lambda: Arrow(doubles(1, 2, 4), 3, null_count=-1, valid=ctypes.c_uint8(7)),
    "arrow unknown": lambda: Arrow(doubles(1, 2, 4), 3, null_count=-1),
    "arrow f32": lambda: Arrow((ctypes.c_float * 3)(1, 2, 4), 3, format=b"f"),
}


def occupy(engine):
    """A job that runs on the engine's only worker until it is cancelled."""
    job, limit = engine.run_native("hl.sleep", LIMIT), time.monotonic() + LIMIT
    while not job.running():
        assert time.monotonic() < limit
        time.sleep(0)
    return job


def ended(array):
    """How often its memory was given back."""
    return array.released if isinstance(array, Arrow) else array.deleted


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_reads_an_array_in_place(kind):
    array, engine = KINDS[kind](), NativeEngine(native_threads=1)
    blocker = occupy(engine)
    job = engine.run_native("hl.sum", array)
    gc.collect()
    assert ended(array) == 0
    blocker.cancel()
    assert job.result(LIMIT) == 7.0
    assert ended(array) == 1
    del job
    assert engine.close(LIMIT) == []
    assert ended(array) == 1
    assert engine.stats()["memory"] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["cancelled", "refused", "in a batch", "closed"])
def test_the_memory_is_given_back_once_however_the_job_ends(kind, end):
    array, engine = KINDS[kind](), NativeEngine(native_threads=1)
    blocker = occupy(engine)
    if end == "cancelled":
        job = engine.run_native("hl.sum", array)
        assert job.cancel()
        with pytest.raises(asyncio.CancelledError):
            job.result(LIMIT)
    elif end == "refused":
        with pytest.raises(TypeError, match="'b'"):
            engine.run_native("hl.dot", array, "text")
    elif end == "in a batch":
        with pytest.raises(TypeError, match=r"call 1: hl\.sum\(\): argument 'values'"):
            engine.run_native_many("hl.sum", [(array,), (object(),)])
    else:
        job = engine.run_native("hl.sum", array)
        assert engine.close(LIMIT) == []
        assert type(job.exception(LIMIT)) is NativeClosedError
    blocker.cancel()
    assert engine.close(LIMIT) == []
    # The events of a thread without a loop are dispatched when kernels are used next.
    hybridloop.run_native("hl.noop").result(LIMIT)
    assert ended(array) == 1


def tensor(**options):
    return Tensor(doubles(1, 2, 4), **{"shape": [3], "flags": 0, **options})


REFUSED = {
    "cuda": (lambda: tensor(device=(2, 0)), r"device of type 2 \(CUDA\)"),
    "bfloat16": (lambda: tensor(dtype=(4, 16, 1)), "bfloat, 16 bits"),
    "opaque": (lambda: tensor(dtype=(3, 64, 1)), "code 3"),
    "lanes": (lambda: tensor(dtype=(2, 32, 2)), "2 lanes"),
    "int128": (lambda: tensor(dtype=(0, 128, 1)), "int, 128 bits"),
    "65 dimensions": (lambda: tensor(shape=[1] * 65), "65 dimensions"),
    "no dimensions": (lambda: tensor(ndim=-1), "-1 dimensions"),
    "negative": (lambda: tensor(shape=[-3]), "shape .* not valid"),
    "huge": (lambda: tensor(shape=[2**62, 2]), "shape .* not valid"),
    "far": (lambda: tensor(shape=[2, 1], strides=[2**62, 1]), "shape .* not valid"),
    "no shape": (lambda: tensor(shape=None, ndim=1), "no shape"),
    "no memory": (lambda: tensor(address=0), "no memory"),
    "version 2": (lambda: tensor(version=(2, 0)), r"DLPack 2\.0"),
    "arrow null": (
        lambda: Arrow(doubles(1, 2), 2, null_count=1, valid=ctypes.c_uint8(1)),
        "1 nulls",
    ),
    "arrow nulls": (
        lambda: Arrow(doubles(1, 2, 3, 4), 2, offset=1, null_count=-1, valid=ctypes.c_uint8(5)),
        "1 nulls",
    ),
    "arrow bool": (lambda: Arrow(doubles(1), 1, format=b"b"), "bool"),
    "arrow text": (lambda: Arrow(doubles(1), 1, format=b"u"), "text"),
    "arrow date": (lambda: Arrow(doubles(1), 1, format=b"tdD"), "times"),
    "arrow list": (lambda: Arrow(doubles(1), 1, format=b"+l", n_children=1), "nested"),
    "arrow decimal": (lambda: Arrow(doubles(1), 1, format=b"d:19,10"), "decimals"),
    "arrow dictionary": (lambda: Arrow(doubles(1), 1, dictionary=1), "dictionary"),
    "arrow buffers": (lambda: Arrow(doubles(1), 1, n_buffers=3), "not valid"),
    "arrow length": (lambda: Arrow(doubles(1), -1), "not valid"),
    "arrow offset": (lambda: Arrow(doubles(1), 1, offset=-1), "not valid"),
    "arrow memory": (lambda: Arrow(doubles(1), 1, address=0), "no memory"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_kernels_cannot_use_is_refused_by_name(engine, kind):
    make, words = REFUSED[kind]
    array = make()
    with pytest.raises(ValueError, match=r"hl\.sum\(\): argument 'values': .*") as caught:
        engine.run_native("hl.sum", array)
    assert isinstance(caught.value.__cause__, BufferError)
    assert caught.match(words)
    gc.collect()
    if kind == "cuda":
        # It was not asked for.
        assert (array.asked, ended(array)) == ([], 0)
        array.device = (1, 0)
        with pytest.raises(ValueError, match=words):
            engine.run_native("hl.sum", array)
    release(array)
    assert ended(array) == 1


def release(array):
    """Give back what nobody has taken, as the capsules of a real library do."""
    if isinstance(array, Arrow):
        if array.array.release:
            array.functions[0](ctypes.addressof(array.array))
    elif capsules.capsule_is_valid(array.capsule, array.name):
        array.deleter(None)


def test_a_capsule_is_taken_once(engine):
    for array in (tensor(), tensor(flags=None), Arrow(doubles(1, 2, 4), 3)):
        assert engine.run_native("hl.sum", array).result(LIMIT) == 7.0
        with pytest.raises(ValueError, match="nobody has used|somebody else has taken"):
            engine.run_native("hl.sum", array)
        assert ended(array) == 1
    for name in (b"tensor", b"used_dltensor"):
        array = tensor(name=name)
        with pytest.raises(ValueError, match="'dltensor'"):
            engine.run_native("hl.sum", array)
        assert ended(array) == 0
        array.deleter(None)


def test_producers_of_before_version_1_are_asked_again(engine):
    class Old(Tensor):
        def __dlpack__(self, stream=None):
            return self.capsule

    array = Old(doubles(1, 2, 4), [3])
    assert engine.run_native("hl.sum", array).result(LIMIT) == 7.0
    new = tensor()
    assert engine.run_native("hl.sum", new).result(LIMIT) == 7.0
    assert new.asked == [(1, 0)]


def test_errors_of_the_producer_are_named(engine):
    class Broken:
        error = RuntimeError("it needs a gradient")

        def __dlpack__(self, **keywords):
            raise self.error

    with pytest.raises(ValueError, match="'values': it needs a gradient") as caught:
        engine.run_native("hl.sum", Broken())
    assert caught.value.__cause__ is Broken.error
    Broken.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        engine.run_native("hl.sum", Broken())

    class Wrong:
        def __init__(self, result):
            self.result = result

        def __arrow_c_array__(self):
            return self.result

    for result in (None, (), (1, 2), ("a", "b", "c")):
        with pytest.raises(ValueError, match="'values'"):
            engine.run_native("hl.sum", Wrong(result))

    class Chunked:
        def __arrow_c_stream__(self):
            raise AssertionError

    with pytest.raises(ValueError, match="chunks"):
        engine.run_native("hl.sum", Chunked())
    with pytest.raises(TypeError, match="expected buf"):
        engine.run_native("hl.sum", Tensor)


def test_a_tensor_that_may_be_written_is_filled_in_place(engine, name):
    load = hybridloop.register_kernel(name, (None, "getloadavg"), "i32(out f64* loads, i32 n)")
    array = tensor()
    assert engine.run_native(load, 3, out=array).result(LIMIT) == 3
    assert list(array.data) != [1.0, 2.0, 4.0]
    for made in (
        tensor(flags=None),
        tensor(flags=READ_ONLY),
        tensor(flags=IS_COPIED),
        Arrow(doubles(1, 2, 4), 3),
    ):
        with pytest.raises(ValueError, match="'loads': the buffer is read-only"):
            engine.run_native(load, 3, out=made)
        assert list(made.data) == [1.0, 2.0, 4.0]
        assert ended(made) == 1


def test_memory_that_a_kernel_writes_is_not_lent_twice(name):
    load = hybridloop.register_kernel(name, (None, "getloadavg"), "i32(out f64* loads, i32 n)")
    engine = NativeEngine(native_threads=1)
    blocker = occupy(engine)
    array = tensor()
    view = numpy.frombuffer(array.data)
    job = engine.run_native(load, 3, out=array)
    with pytest.raises(BufferInUseError):
        engine.run_native("hl.sum", view)
    blocker.cancel()
    job.result(LIMIT)
    assert engine.close(LIMIT) == []


def test_gaps_are_for_the_kernel_to_check(engine, name):
    with pytest.raises(ValueError, match=r"hl\.sum: the buffer is not C-contiguous"):
        engine.run_native("hl.sum", tensor(shape=[2], strides=[2])).result(LIMIT)
    strided = hybridloop.register_kernel(name, (None, "getloadavg"), "i32(f64* loads, i32 n)")
    array = tensor(shape=[2], strides=[2])
    with pytest.raises(ValueError, match="'loads': the buffer is not C-contiguous"):
        engine.run_native(strided, array, 1)
    assert array.deleted == 1


def test_nothing_is_an_array_too(engine):
    for array in (
        tensor(shape=[0]),
        tensor(shape=[0, 5], strides=[7, 7], address=0),
        Arrow(doubles(), 0, address=0),
    ):
        assert engine.run_native("hl.sum", array).result(LIMIT) == 0.0
    one = tensor(shape=[], offset=8)
    assert engine.run_native("hl.sum", one).result(LIMIT) == 2.0


def skewed(count, dtype=numpy.float64):
    dtype = numpy.dtype(dtype)
    memory = numpy.zeros(count * dtype.itemsize + 16, numpy.uint8)
    start = (-memory.ctypes.data) % 8 + 1
    array = memory[start : start + count * dtype.itemsize].view(dtype)
    array[:] = numpy.arange(count)
    assert not array.flags.aligned
    return array


def test_small_arguments_that_are_not_aligned_are_copied(name):
    engine = NativeEngine(native_threads=1)
    # It writes, contrary to the signature.
    read = hybridloop.register_kernel(name, (None, "getloadavg"), "i32(f64* loads, i32 n)")
    most = (64 << 10) // 8
    assert engine.run_native("hl.sum", skewed(most)).result(LIMIT) == sum(range(most))
    array = skewed(10)
    assert engine.run_native(read, array, 1).result(LIMIT) == 1
    assert list(array) == list(range(10)), "the kernel had a copy"
    assert engine.run_native("hl.sum", array.reshape(2, 5)).result(LIMIT) == 45
    with pytest.raises(ValueError, match="'loads': .* not aligned, and too large to be copied"):
        engine.run_native(read, skewed(most + 1), 1)
    with pytest.raises(ValueError, match="not aligned"):
        engine.run_native("hl.sum", skewed(most + 1)).result(LIMIT)
    assert engine.stats()["memory"] == 0
    assert engine.close(LIMIT) == []


def test_what_is_written_has_to_be_aligned(name):
    engine = NativeEngine(native_threads=1)
    load = hybridloop.register_kernel(name, (None, "getloadavg"), "i32(out f64* loads, i32 n)")
    array = skewed(10)
    with pytest.raises(ValueError, match="'loads': .* not aligned, and the kernel writes to it"):
        engine.run_native(load, 3, out=array)
    # A copy is not taken while another kernel writes to the memory.
    blocker = occupy(engine)
    job = engine.run_native("hl.sum", array)
    memory = array.base
    aligned = memory[(-memory.ctypes.data) % 8 :][:80].view(numpy.float64)
    with pytest.raises(BufferInUseError):
        engine.run_native(load, 3, out=aligned)
    blocker.cancel()
    assert job.result(LIMIT) == 45
    blocker = occupy(engine)
    job = engine.run_native(load, 3, out=aligned)
    with pytest.raises(BufferInUseError):
        engine.run_native("hl.sum", array)
    blocker.cancel()
    job.result(LIMIT)
    assert engine.close(LIMIT) == []
