"""Kernels made of functions of others, run: each kind of target gives the right result."""

import ctypes
import gc
import importlib.util
import math
import subprocess
import sys
import sysconfig
import time
import weakref

import cffi
import numpy
import pytest
import scipy
import scipy.integrate

from hybridloop import NativeBuffer, load_kernels, register_kernel

from .support import LIMIT
from .test_registration import LIBM, entry_of

pytestmark = [pytest.mark.improves_on_asyncio, pytest.mark.usefixtures("clean_end")]

VALUES = numpy.arange(1000, dtype=numpy.float64)


@pytest.fixture(scope="module")
def demo(compile_c):
    return compile_c("demo", MODULE='"foreign"')


@pytest.fixture
def numba():
    return pytest.importorskip("numba", reason="numba does not support this Python")


@pytest.fixture
def numba_total(numba):
    @numba.cfunc("float64(CPointer(float64), intp)")
    def total(values, count):
        result = 0.0
        for i in range(count):
            result += values[i]
        return result

    return total


@pytest.fixture
def cbrt():
    cbrt = ctypes.CDLL(LIBM).cbrt
    cbrt.restype, cbrt.argtypes = ctypes.c_double, [ctypes.c_double]
    return cbrt


async def test_ctypes(loop, name, cbrt):
    register_kernel(name, cbrt)
    assert await loop.run_native(name, 27.0) == cbrt(27.0)
    assert await loop.run_native(name, 27) == cbrt(27.0)


async def test_cffi(loop, name):
    ffi = cffi.FFI()
    ffi.cdef("double hypot(double, double); size_t strlen(const char *);")
    register_kernel(name, ffi.dlopen(LIBM).hypot)
    assert await loop.run_native(name, 3.0, 4.0) == 5.0
    register_kernel(name + "s", ffi.dlopen(None).strlen)
    assert await loop.run_native(name + "s", b"seven..\0") == 7


async def test_numba(loop, name, numba_total):
    register_kernel(name, numba_total)
    assert await loop.run_native(name, VALUES, len(VALUES)) == VALUES.sum()


async def test_scipy(loop, name, numba_total):
    register_kernel(name, scipy.LowLevelCallable(numba_total.ctypes))
    assert await loop.run_native(name, VALUES, 10) == 45.0


async def test_scipy_with_user_data_of_numba(loop, name, numba):
    """The function is the one that SciPy itself calls with the same data."""

    @numba.cfunc(numba.float64(numba.float64, numba.intc, numba.types.voidptr))
    def polynomial(x, degree, coefficients):
        values = numba.carray(coefficients, degree + 1, numpy.float64)
        result = 0.0
        for i in range(degree, -1, -1):
            result = result * x + values[i]
        return result

    coefficients = (ctypes.c_double * 3)(1.0, 2.0, 3.0)
    data = ctypes.cast(coefficients, ctypes.c_void_p)
    kernel = register_kernel(name, scipy.LowLevelCallable(polynomial.ctypes, data))
    assert kernel.signature == "double (double, int)"
    assert await loop.run_native(name, 2.0, 2) == 17.0
    assert await loop.run_native_many(name, [(2, 0), (2, 1), (0.5, 2)]) == [1.0, 5.0, 2.75]
    for arguments in ((2.0,), (2.0, 2, data)):
        with pytest.raises(TypeError, match=name):
            loop.run_native(name, *arguments)


async def test_scipy_with_user_data_of_ctypes(loop, name, demo):
    scaled = ctypes.CDLL(demo).plain_scaled
    scaled.restype, scaled.argtypes = ctypes.c_double, [ctypes.c_double, ctypes.c_void_p]
    by = ctypes.c_double(3.0)
    integrand = scipy.LowLevelCallable(scaled, ctypes.cast(ctypes.pointer(by), ctypes.c_void_p))
    register_kernel(name, integrand)
    assert await loop.run_native(name, 5.0) == 15.0
    # SciPy's own idea of it.
    assert scipy.integrate.quad(integrand, 0, 2)[0] == pytest.approx(6.0)
    by.value = 4.0
    assert await loop.run_native(name, 5.0) == 20.0
    register_kernel(name, integrand, "f64(f64 x = 2.5, void*? data = None)", replace=True)
    assert await loop.run_native(name) == 10.0


async def test_scipy_with_user_data_of_cffi(loop, name, demo, cbrt):
    ffi = cffi.FFI()
    ffi.cdef("double plain_scaled(double, void *);")
    by = ffi.new("double *", 3.0)
    scaled = ffi.addressof(ffi.dlopen(str(demo)), "plain_scaled")
    register_kernel(name, scipy.LowLevelCallable(scaled, by))
    assert await loop.run_native(name, 5.0) == 15.0
    # The kernel keeps what its data is in, until it is replaced and its last job is gone.
    watch = weakref.ref(by)
    del by, scaled
    gc.collect()
    assert watch() is not None
    assert await loop.run_native(name, 7.0) == 21.0
    register_kernel(name, cbrt, replace=True)

    # A worker drops its job after the result has arrived. If the job was the last that had the
    # kernel, its objects wait for the next use of kernels.
    deadline = time.monotonic() + LIMIT
    while watch() is not None:
        assert time.monotonic() < deadline
        await loop.run_native("hl.noop")
        gc.collect()


async def test_an_address(loop, name, cbrt):
    register_kernel(name, ctypes.cast(cbrt, ctypes.c_void_p).value, "f64(f64 x)")
    assert await loop.run_native(name, 27.0) == cbrt(27.0)


async def test_an_address_of_numba(loop, name, numba_total):
    register_kernel(name, numba_total.address, "f64(f64* values, usize count)")
    assert await loop.run_native(name, VALUES, 3) == 3.0


async def test_a_function_of_a_library(loop, name, demo):
    register_kernel(name, (demo, "plain_total"), "f64(f64* values, usize n, f64 by = 2.0)")
    assert await loop.run_native(name, VALUES, 4) == 12.0
    assert await loop.run_native(name, VALUES, 4, 0.5) == 3.0
    register_kernel(name + "f", (demo, "plain_fill"), "void(out i32* target, usize n, i32 with)")
    target = numpy.zeros(10, numpy.int32)
    assert await loop.run_native(name + "f", len(target), 7, out=target) is None
    assert target.tolist() == [7] * 10


async def test_a_capsule(loop, name, demo):
    register_kernel(name, entry_of(ctypes.CDLL(demo), "entry"))
    assert await loop.run_native(name, 37) == 42
    register_kernel(name + "o", entry_of(ctypes.CDLL(demo), "other"))
    assert await loop.run_native(name + "o", 21) == 42


async def test_a_module(loop, name, compile_c):
    twice, rows = load_kernels(compile_c("demo", MODULE=f'"{name}"'))
    assert await loop.run_native(twice, 21) == 42
    assert await loop.run_native(f"{name}.twice", -3) == -6
    result = await loop.run_native(rows, numpy.arange(6.0))
    assert isinstance(result, NativeBuffer)
    assert (result.format, result.itemsize, result.shape, len(result)) == ("d", 8, (2, 3), 2)
    assert result.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert numpy.asarray(result).tolist() == result.tolist()
    assert result[1, 2] == 6
    assert result == numpy.arange(1.0, 7.0).reshape(2, 3)
    assert bytes(result) == numpy.arange(1.0, 7.0).tobytes()
    assert repr(result) == "<NativeBuffer of 48 bytes, format 'd', shape [2, 3]>"
    with pytest.raises(ValueError, match="restricted to formats"):
        hash(result)
    fortran = numpy.asfortranarray(result)
    assert not numpy.shares_memory(fortran, numpy.asarray(result))
    assert fortran.tolist() == result.tolist()
    with pytest.raises(ValueError, match="an even number"):
        await loop.run_native(rows, numpy.arange(5.0))


CYTHON = """
# cython: language_level=3
cdef api double half(double x) noexcept nogil:
    return x / 2

cdef api long long widest(long long x, unsigned long long y, Py_ssize_t z) noexcept nogil:
    return x - <long long>y + z

cdef api double total(const double *values, size_t count) noexcept nogil:
    cdef double result = 0
    cdef size_t i
    for i in range(count):
        result += values[i]
    return result
"""


@pytest.fixture(scope="module")
def cython_module(tmp_path_factory, compile_c):
    """A module with functions that other modules may import natively."""
    folder = tmp_path_factory.mktemp("cython")
    source = folder / "halves.pyx"
    source.write_text(CYTHON)
    subprocess.run([sys.executable, "-m", "cython", source], check=True, cwd=folder)
    target = folder / ("halves" + sysconfig.get_config_var("EXT_SUFFIX"))
    include = f"-I{sysconfig.get_path('include')}"
    command = ["cc", "-O1", "-fPIC", "-shared", include, "-o", target, folder / "halves.c"]
    subprocess.run(command, check=True)
    spec = importlib.util.spec_from_file_location("halves", target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_cython(loop, name, cython_module):
    functions = cython_module.__pyx_capi__
    assert register_kernel(name, functions["half"]).signature == "double (double)"
    assert await loop.run_native(name, 7.0) == 3.5
    widest = register_kernel(name + "w", functions["widest"])
    assert await loop.run_native(widest, -(2**62), 5, 2) == -(2**62) - 3
    total = register_kernel(name + "t", functions["total"])
    assert await loop.run_native(total, VALUES, 11) == 55.0


async def test_jobs_of_a_replaced_kernel_run_to_their_end(loop, name):
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint)
    address = ctypes.cast(ctypes.CDLL(None).usleep, ctypes.c_void_p).value
    job = loop.run_native(register_kernel(name, prototype(address)), 20_000)
    cbrt = ctypes.cast(ctypes.CDLL(LIBM).cbrt, ctypes.c_void_p).value
    register_kernel(name, cbrt, "f64(f64)", replace=True)
    assert math.isclose(await loop.run_native(name, 8.0), 2.0)
    assert await job == 0
