"""Arguments and results as parts of a message, and exceptions."""

import array
import asyncio
import zlib

import numpy
import pytest

from hybridloop import NativeKernelError
from hybridloop.cluster import KernelLostError, values
from hybridloop.cluster.errors import decode_error, encode_error
from hybridloop.native.errors import BusBusyError, BusKeyError

LARGE = values.INLINE + 8


def there_and_back(*given):
    frames = []
    return values.decode(values.encode(given, frames, "k"), frames), frames


def test_numbers_and_text_are_as_they_were():
    given = [None, True, False, 0, -(1 << 63), (1 << 64) - 1, 1 << 64, -(1 << 70), 0.5, "ä", ""]
    back, frames = there_and_back(*given)
    assert back == given and list(map(type, back)) == list(map(type, given)) and not frames


def test_small_buffers_are_copied_and_large_ones_are_not():
    small, large = bytearray(values.INLINE), bytearray(LARGE)
    back, frames = there_and_back(small, large)
    assert [bytes(it) for it in back] == [bytes(small), bytes(large)]
    assert [frame.obj for frame in frames] == [large]


@pytest.mark.parametrize("length", [0, 1, LARGE])
@pytest.mark.parametrize("kind", "bBhHiIlLqQfd")
def test_formats(kind, length):
    given = array.array(kind, [1] * length)
    (back,), _ = there_and_back(given)
    view = memoryview(back)
    assert (view.format, view.shape, view.tolist()) == (kind, (length,), given.tolist())


@pytest.mark.parametrize("dtype", ["?", ">f8", "<f2", "c16", ">i4", "M8[ns]"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (50, 60, 2)])
def test_formats_of_numpy(dtype, shape):
    given = numpy.ones(shape, "i8").astype(dtype)
    if dtype == "M8[ns]":
        # It has no buffer.
        with pytest.raises((TypeError, ValueError)):
            there_and_back(given)
        return
    (back,), _ = there_and_back(given)
    array = numpy.asarray(back)
    assert (array.dtype, array.shape) == (given.dtype, shape)
    assert not memoryview(back).c_contiguous or memoryview(back).readonly
    assert (array == given).all()


def test_what_is_not_contiguous_is_refused():
    with pytest.raises(ValueError, match="k: the buffer is not C-contiguous"):
        there_and_back(memoryview(bytes(10))[::2])


@pytest.mark.parametrize("kind", "hid")
def test_frames_that_begin_anywhere_are_aligned(kind):
    size = array.array(kind).itemsize
    given = array.array(kind, range(LARGE))
    part = ("buffer", kind, None, 0)
    for begin in range(2 * size):
        for box in (bytearray(begin), bytes(begin)):
            arrived = memoryview(box + given.tobytes())[begin:]
            (back,) = values.decode([part], [arrived])
            assert numpy.asarray(back).flags.aligned
            assert back.tolist() == given.tolist()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text"),
        ValueError(),
        KeyError("key"),
        OSError(2, "No such file"),
        TimeoutError("late"),
        NativeKernelError(-3, "on purpose", "k"),
        BusKeyError(b"key", "no such thing"),
        BusBusyError("key"),
        KernelLostError("gone"),
    ],
    ids=repr,
)
def test_exceptions(error):
    error.add_note("call 3 of the batch")
    back = decode_error(encode_error(error))
    assert (type(back), str(back), back.args) == (type(error), str(error), error.args)
    assert back.__notes__ == ["call 3 of the batch"]


def test_exceptions_of_other_classes_keep_their_text():
    back = decode_error(encode_error(zlib.error("damaged")))
    assert (type(back), str(back)) == (RuntimeError, "error: damaged")
    strange = ValueError({"a": object})
    assert str(decode_error(encode_error(strange))) == str(strange)
    # A name alone does not say which class it is.
    back = decode_error(encode_error(asyncio.InvalidStateError("x")))
    assert type(back) is RuntimeError
