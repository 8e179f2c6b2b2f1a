"""The examples of native kernels print what they promise."""

import shutil

import pytest

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@needs_cc
def test_a_kernel_in_c(run_example):
    assert run_example("examples.kernels.c_kernel") == [
        "signal.smooth  none([f64] values, out [f64] smoothed, u32 window = 5)",
        "signal.peaks  buf([f64] values, f64 threshold)",
        "smoothed 100,000 values, heard last that 98,304 were done",
        "peaks at [0.05, 0.25, 0.45, 0.65, 0.85]",
        "refused: signal.smooth: the window is empty",
    ]


@needs_cc
def test_a_library_that_calls_back(run_example):
    assert run_example("examples.kernels.library_with_threads") == [
        "meter.measure  f64()  The temperature, in degrees Celsius.",
        "one: 20.0",
        "while they wait: 3364414429",
        "several: 20.1 20.2 20.3 20.4 20.5",
    ]


@pytest.mark.skipif(shutil.which("cargo") is None, reason="there is no Rust compiler")
@pytest.mark.timeout(900)
def test_a_kernel_in_rust(run_example, tmp_path_factory):
    # Built once for all Pythons that are tested from this folder, by cargo's own rules.
    first, *grid, late, cancelled = run_example("examples.kernels.rust_kernel", timeout=880)
    assert first == "24 rows of 72 points, format 'H'"
    assert [len(row) for row in grid] == [72] * 24
    # The axis is all within the set up to 0.25, and the set is symmetric to it.
    assert grid[12].count("@") > 40
    assert grid[1:12] == grid[:12:-1]
    assert (late, cancelled) == ("too much for 50 ms", "cancelled")


def test_a_kernel_of_numba(run_example):
    pytest.importorskip("numba", reason="numba does not support this Python")
    assert run_example("examples.kernels.numba_kernel") == [
        "geo.route  f64(f64*, f64*, u64)",
        "Lisbon - Madrid - Paris: 1556 km",
        "100 routes, the longest 10278968 km",
    ]


def test_functions_of_libraries_by_ctypes(run_example):
    crc, compressed, length, refused = run_example("examples.kernels.ctypes_kernels")
    assert crc == "crc32 bf81c375, as Python's: True"
    assert compressed.startswith("compress2 0: 1,060,000 -> ")
    assert compressed.endswith(" bytes, back: True")
    assert length == "strnlen 12"
    assert refused == "refused: zlib.compress2(): argument 'target': the buffer is read-only"


@needs_cc
def test_arrays_of_numpy(run_example):
    in_order, shared, total, smoothed, *refused = run_example("examples.kernels.numpy_arrays")
    assert in_order == "sorted 1,000,000 x float64: True"
    assert shared == "the array is the result itself: True; writable: False"
    assert total == "sum -112.785549, numpy's -112.785549"
    assert smoothed == "smoothed in place: True"
    assert refused == [
        "refused: 'smoothed': another argument is the same memory, and one of them is written to",
        "refused: signal.smooth(): argument 'values': the buffer is not C-contiguous",
    ]
