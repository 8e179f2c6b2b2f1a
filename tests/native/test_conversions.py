"""A kernel gets each argument in the form of its declared type, whatever was passed."""

import ctypes
import struct

import numpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import hybridloop
from hybridloop._core import NativeEngine

from .support import LIMIT

pytestmark = pytest.mark.improves_on_asyncio

INTEGERS = {
    f"{kind}{size}": range(-(2 ** (size - 1)) if kind == "i" else 0, 2 ** (size - (kind == "i")))
    for kind in "iu"
    for size in (8, 16, 32, 64)
}
FLOATS = {"f32": "f", "f64": "d"}
DEFAULTS = {
    "bool": True,
    "i8": -128,
    "i16": -32768,
    "i32": 1,
    "i64": -(2**63),
    "u8": 255,
    "u16": 1,
    "u32": 2**32 - 1,
    "u64": 2**64 - 1,
    "f32": 3.0,
    "f64": 3.0,
}
KINDS = {"bool": "bool", "f32": "f64", "f64": "f64"}
BOUNDED = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def call(job_library):
    hybridloop.load_kernels(job_library, replace=True)
    engine = NativeEngine(native_threads=1)

    def call(name, *args):
        one = engine.run_native(name, *args).result(LIMIT)
        [other] = engine.run_native_many(name, [args]).result(LIMIT)
        assert one == other
        return one

    yield call
    assert engine.close(LIMIT) == []


def rounded(type, value):
    return ctypes.c_float(value).value if type == "f32" else float(value)


def bits(type, value):
    """The bits of `u.i`, `u.u` or `u.f`."""
    if type in FLOATS:
        return struct.unpack("=Q", struct.pack("=d", rounded(type, value)))[0]
    return int(value) % 2**64


def kind(type):
    return KINDS.get(type, f"{type[0]}64")


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@pytest.mark.parametrize("type", FLOATS)
@given(value=st.floats(allow_nan=False) | st.integers(-(2**200), 2**200) | st.booleans())
@example(value=1)
@example(value=2**53 + 1)
@example(value=2**64)
@BOUNDED
def test_numbers_for_floats(call, type, value):
    forms = [value, numpy.float64(value)]
    if isinstance(value, int):
        forms += [float(value), Index(int(value))]
    for form in forms:
        assert call(f"jobs.bits.{type}", form) == bits(type, value)
        assert call(f"jobs.kind.{type}", form) == "f64"


@pytest.mark.parametrize("type", FLOATS)
def test_an_int_that_is_no_float_is_refused(call, type):
    for value in [10**400, Index(-(10**400))]:
        with pytest.raises(OverflowError, match=r"argument 'x'.*too large"):
            call(f"jobs.bits.{type}", value)


@pytest.mark.parametrize("type", INTEGERS)
@given(data=st.data())
@BOUNDED
def test_numbers_for_integers(call, type, data):
    numbers = INTEGERS[type]
    value = data.draw(st.integers(numbers[0], numbers[-1]) | st.booleans())
    scalar = numpy.dtype(f"{type[0]}{int(type[1:]) // 8}").type(value)
    for form in [value, Index(int(value)), scalar]:
        assert call(f"jobs.bits.{type}", form) == bits(type, value)
        assert call(f"jobs.kind.{type}", form) == kind(type)
    outside = data.draw(st.sampled_from([numbers[0] - 1, numbers[-1] + 1, 2**70, -(2**70)]))
    with pytest.raises(OverflowError, match="argument 'x'"):
        call(f"jobs.bits.{type}", outside)
    with pytest.raises(TypeError, match="argument 'x'"):
        call(f"jobs.bits.{type}", 0.5)


@pytest.mark.parametrize("type", DEFAULTS)
def test_defaults(call, type):
    assert call(f"jobs.default.{type}") == bits(type, DEFAULTS[type])
    assert call(f"jobs.default.{type}", DEFAULTS[type]) == bits(type, DEFAULTS[type])
    assert call(f"jobs.kind.{type}", DEFAULTS[type]) == kind(type)


def test_a_default_key_is_a_key(call):
    for args in [(), ("k",), (b"k",)]:
        assert call("jobs.kind.key", *args) == "key"


@given(value=st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False))
@BOUNDED
def test_plain_functions_get_the_same(call, value):
    assert call("conversions.fabs", value) == abs(float(value))


@pytest.fixture(scope="module", autouse=True)
def fabs():
    hybridloop.register_kernel("conversions.fabs", ("libm.so.6", "fabs"), "f64(f64)", replace=True)
