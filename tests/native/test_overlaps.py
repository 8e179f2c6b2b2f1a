"""Memory that a job writes to is used by nothing else, whatever the shapes of the views."""

import contextlib

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hybridloop
from hybridloop import BufferInUseError
from hybridloop._core import NativeEngine

from .support import LIMIT

pytestmark = pytest.mark.improves_on_asyncio

SIZE = 24


@pytest.fixture(scope="module")
def loaded(job_library):
    hybridloop.load_kernels(job_library, replace=True)
    engine = NativeEngine(native_threads=2)
    yield engine
    assert engine.close(LIMIT) == []


def slices(size):
    places = st.none() | st.integers(-size, size)
    steps = st.none() | st.integers(-5, 5).filter(bool)
    return st.builds(slice, places, places, steps)


def views(array):
    """Views of any layout: parts of it with steps of both signs, axes exchanged."""
    parts = st.tuples(*map(slices, array.shape)).map(lambda part: array[part])
    return st.builds(lambda part, turn: part.T if turn else part, parts, st.booleans())


def addresses(view):
    """The address of each byte, and the range that they span."""
    first = view.__array_interface__["data"][0]
    found = set()
    for index in numpy.ndindex(view.shape):
        start = first + sum(i * stride for i, stride in zip(index, view.strides, strict=True))
        found.update(range(start, start + view.itemsize))
    return found, range(min(found, default=0), max(found, default=-1) + 1)


@contextlib.contextmanager
def held(engine, *args):
    job = engine.run_native("jobs.hold", *args)
    try:
        yield
    finally:
        job.cancel()
        with contextlib.suppress(BaseException):
            job.result(LIMIT)


ARRAYS = st.sampled_from(
    [
        numpy.zeros(SIZE, "i4"),
        numpy.zeros((6, 4), "i2"),
        numpy.zeros((3, 4, 2), "f8"),
        numpy.zeros((4, 6), "u1").T,
    ]
)


@given(pair=ARRAYS.flatmap(lambda array: st.tuples(views(array), views(array))))
@settings(max_examples=150, deadline=None)
def test_views_that_share_bytes_are_refused(loaded, pair):
    one, other = pair
    (bytes_of_one, span), (bytes_of_other, other_span) = map(addresses, pair)
    shared = bool(bytes_of_one & bytes_of_other)
    apart = not one.size or not other.size
    apart = apart or span.stop <= other_span.start or other_span.stop <= span.start
    assert not (shared and apart)
    for first, second in [((one,), (other,)), ((one,), (numpy.zeros(1), other))]:
        with held(loaded, *first):
            if shared:
                with pytest.raises(BufferInUseError):
                    loaded.run_native("jobs.hold", *second)
            elif apart:
                with held(loaded, *second):
                    pass
    if shared:
        with pytest.raises(BufferInUseError):
            loaded.run_native("jobs.hold", one, other)
    elif apart:
        with held(loaded, one, other):
            pass


@st.composite
def strided(draw, array):
    """A view of any shape and strides, of 0 and both signs, too, within the bytes of an array."""
    item = draw(st.sampled_from([1, 2, 4, 8]))
    shape, strides = [], []
    first = last = draw(st.integers(0, array.nbytes - item))
    for _ in range(draw(st.integers(0, 3))):
        size, stride = draw(st.integers(0, 4)), draw(st.integers(-12, 12))
        reach = (size - 1) * stride if size else 0
        low, high = first + min(reach, 0), last + max(reach, 0)
        if low < 0 or high > array.nbytes - item:
            stride = 0
        else:
            first, last = low, high
        shape.append(size)
        strides.append(stride)
    start = first + sum(
        (size - 1) * -stride
        for size, stride in zip(shape, strides, strict=True)
        if size and stride < 0
    )
    return numpy.ndarray(tuple(shape), f"V{item}", array, start, tuple(strides))


@given(data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_extents_of_strided_views(loaded, data):
    array = numpy.zeros(64, "u1")
    one, other = (data.draw(strided(array)).view() for _ in range(2))
    is_shared, may_share = numpy.shares_memory(one, other), numpy.may_share_memory(one, other)
    with held(loaded, one):
        if is_shared:
            with pytest.raises(BufferInUseError):
                loaded.run_native("jobs.hold", other)
        elif not may_share:
            with held(loaded, other):
                pass


def test_a_view_with_steps_or_backwards_is_all_that_it_spans(loaded):
    data = numpy.zeros(100)
    cases = [
        (data[::2], data[50:]),
        (data[::-1], data[:50]),
        (data[::-1], data[50:]),
        (data[50::-1], data[50:51]),
    ]
    for one, other in cases:
        with held(loaded, one), pytest.raises(BufferInUseError, match="target"):
            loaded.run_native("jobs.hold", other)
    with held(loaded, data[:50][::2]), held(loaded, data[50:][::-1]):
        pass
    backwards = memoryview(bytearray(10))[::-1]
    with held(loaded, backwards), pytest.raises(BufferInUseError):
        loaded.run_native("jobs.hold", backwards[5:])
