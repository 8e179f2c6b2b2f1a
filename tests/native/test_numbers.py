"""Sums and orders of floats: exact, stable, the same on every machine and with little memory."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridloop._core import NativeEngine

from .support import LIMIT

pytestmark = pytest.mark.improves_on_asyncio

FLOATS = ["f4", "f8"]
INTEGERS = {"f4": "i4", "f8": "i8"}
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, -math.nan, 1.0, -1.0]
# Below and above the number of elements from which arrays are sorted by radix, and of a chunk.
SIZES = [0, 1, 2, 100, 1023, 1024, 5000, 70_000]
BOUNDED = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def call():
    engine = NativeEngine(native_threads=1)

    def call(name, *args):
        return engine.run_native(name, *args).result(LIMIT)

    yield call
    assert engine.close(LIMIT) == []


def bits(values, type):
    return numpy.asarray(values).view(INTEGERS[type])


def expected_order(values, type):
    """Ascending, -0.0 before 0.0, NaN last, each as the total order of IEEE 754 says."""
    signed = bits(values, type)
    total = numpy.where(signed < 0, signed ^ numpy.iinfo(signed.dtype).max, signed)
    return numpy.lexsort((total, numpy.isnan(values)))


def arrays(type):
    """Arrays in which elements differ in few bits or many, at both ends."""

    def build(seed, size, kind, special):
        chance = numpy.random.default_rng(seed)
        with numpy.errstate(all="ignore"):
            values = {
                "bits": lambda: chance.bytes(size * int(type[1])),
                "normal": lambda: chance.standard_normal(size).astype(type),
                "few": lambda: chance.integers(-3, 3, size).astype(type),
                "integers": lambda: chance.integers(0, 10**6, size).astype(type),
                "close": lambda: (1e9 + chance.random(size)).astype(type),
                "two places": lambda: (
                    (chance.choice([1e-9, 1e9], size) * (1 + 1e-9)).astype(type)
                    + chance.integers(0, 9, size).astype(type)
                ),
                "ascending": lambda: numpy.arange(size, dtype=type),
                "descending": lambda: numpy.arange(size, 0, -1).astype(type),
                "equal": lambda: numpy.full(size, 0.1, type),
                # All but one are equal in the bits that are looked at first.
                "outlier": lambda: numpy.append(
                    1 + chance.random(max(size - 1, 0)) * 2e-9, [1e300][: size > 0]
                ).astype(type),
            }[kind]()
        array = numpy.frombuffer(values, type).copy()
        if special and size:
            places = chance.integers(0, size, min(size, 20))
            array[places] = chance.choice(numpy.array(SPECIAL, type), len(places))
        return array

    kinds = ["bits", "normal", "few", "integers", "close", "two places", "ascending"]
    return st.builds(
        build,
        st.integers(0, 2**32),
        st.sampled_from(SIZES) | st.integers(0, 3000),
        st.sampled_from([*kinds, "descending", "equal", "outlier"]),
        st.booleans(),
    )


@pytest.mark.parametrize("type", FLOATS)
@given(data=st.data())
@BOUNDED
def test_order(call, type, data):
    values = data.draw(arrays(type))
    order = expected_order(values, type)
    assert numpy.array_equal(numpy.asarray(call("hl.argsort", values)), order)
    result = call("hl.sort", values)
    assert memoryview(result).format == {"f4": "f", "f8": "d"}[type]
    assert numpy.array_equal(bits(result, type), bits(values[order], type))


@pytest.mark.parametrize("type", FLOATS)
@given(data=st.data())
@BOUNDED
def test_with_memory_for_no_more_than_the_result(type, data):
    values = data.draw(arrays(type))
    order = expected_order(values, type)
    for name, size in [("hl.sort", values.nbytes), ("hl.argsort", 8 * len(values))]:
        engine = NativeEngine(native_threads=1, job_memory=size + 4096)
        result = numpy.asarray(engine.run_native(name, values).result(LIMIT))
        assert engine.close(LIMIT) == []
        if name == "hl.argsort":
            assert numpy.array_equal(result, order)
        else:
            assert numpy.array_equal(bits(result, type), bits(values[order], type))


def test_a_sort_that_does_not_fit_is_a_memory_error():
    engine = NativeEngine(native_threads=1, job_memory=1 << 20)
    for name in ["hl.sort", "hl.argsort"]:
        with pytest.raises(MemoryError):
            engine.run_native(name, numpy.zeros(1 << 18)).result(LIMIT)
    assert engine.close(LIMIT) == []


def in_documented_order(values):
    """Blocks of 512 in 16 lanes; the sums of lanes and blocks are added in pairs."""
    sums = []
    for start in range(0, len(values), 512):
        block = values[start : start + 512]
        lanes = numpy.zeros(16)
        for row in range(0, len(block), 16):
            part = block[row : row + 16]
            lanes[: len(part)] += part
        while len(lanes) > 1:
            lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
        sums.append((1, lanes[0]))
        while len(sums) > 1 and sums[-1][0] == sums[-2][0]:
            (size, last), (_, before) = sums.pop(), sums.pop()
            sums.append((2 * size, last + before))
    total = 0.0
    for _, part in reversed(sums):
        total += part
    return total


@pytest.mark.parametrize("type", FLOATS)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([0, 1, 15, 16, 17, 512, 513, 40_000]))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_sums_are_the_same_everywhere(call, type, seed, size):
    chance = numpy.random.default_rng(seed)
    one, other = (chance.standard_normal((2, size)) * 10.0 ** chance.integers(-9, 9)).astype(type)
    wide, other_wide = one.astype("f8"), other.astype("f8")
    assert call("hl.sum", one) == in_documented_order(wide)
    assert call("hl.dot", one, other) == in_documented_order(wide * other_wide)
    bound = 1e-14 * math.fsum(abs(wide))
    assert abs(call("hl.sum", one) - math.fsum(wide)) <= bound


def test_the_error_of_a_sum_does_not_grow_with_the_length(call):
    values = numpy.full(10**6, 0.1)
    assert abs(call("hl.sum", values) - 1e5) < 1e-9


def test_histogram(call):
    chance = numpy.random.default_rng(1)
    values = chance.integers(-100, 1100, 100_000) / 1000
    values[:100] = numpy.nan
    # Halves of powers of two: both know exactly where a part begins.
    counts = numpy.asarray(call("hl.histogram", values, 8, 0.0, 1.0))
    assert numpy.array_equal(counts, numpy.histogram(values, 8, (0.0, 1.0))[0])
