"""Built-in kernels beside the libraries that Python programs use for the same: numpy, hashlib, …

python -m benchmarks.builtins --sizes 1000,1000000 --cases sort,sha256

Both work on the same data, in one process, and take turns. What is short is done many times, the
kernel in a batch on one worker, so that the round trip does not count. For compressors, the size of
the results is compared as well. CPU time of the process is compared, because other programs take
less of it than of the time that passes.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import hashlib
import importlib
import random
import statistics
import time
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.harness.arguments import choice_of, numbers
from benchmarks.harness.tables import NONE, table
from benchmarks.loops import LOOPS, SUBJECT

SIZES = [10**3, 10**4, 10**5, 10**6, 10**7]
SAMPLE_SECONDS = 0.005
TIMEOUT = 120.0
BINS = 100

Call = Callable[[], Any]
# The arguments of the kernel for so many elements or bytes, and what does the same.
Make = Callable[[int], tuple[tuple[Any, ...], Call]]
# Name → the kernel, the library beside it, and what is compared.
CASES: dict[str, tuple[str, str, Make]] = {}


def case(kernel: str, beside: str) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        CASES[kernel] = (f"hl.{kernel}", beside, make)
        return make

    return register


def library(name: str) -> Any:
    """Import what need not be installed."""
    return importlib.import_module(name)


def doubles(count: int, seed: int = 1) -> Any:
    return library("numpy").random.default_rng(seed).standard_normal(count)


@functools.cache
def text(size: int) -> bytes:
    """Words, of which some are frequent: it is compressed to about a third."""
    chance = random.Random(1)
    words = [chance.randbytes(chance.randint(1, 5)).hex() for _ in range(4096)]
    chosen: list[str] = []
    # A word and a space have four bytes or more.
    for _ in range(size // 4 + 1):
        chosen.append(words[int(4096 * chance.random() ** 3)])
    return " ".join(chosen).encode()[:size]


@case("sum", "numpy")
def sum_of(count: int) -> tuple[tuple[Any, ...], Call]:
    values = doubles(count)
    return (values,), partial(library("numpy").sum, values)


@case("dot", "numpy")
def dot(count: int) -> tuple[tuple[Any, ...], Call]:
    values, others = doubles(count), doubles(count, 2)
    return (values, others), partial(library("numpy").dot, values, others)


@case("histogram", "numpy")
def histogram(count: int) -> tuple[tuple[Any, ...], Call]:
    values = doubles(count)
    return (values, BINS, -3.0, 3.0), partial(library("numpy").histogram, values, BINS, (-3.0, 3.0))


@case("sort", "numpy")
def sort(count: int) -> tuple[tuple[Any, ...], Call]:
    values = doubles(count)
    return (values,), partial(library("numpy").sort, values)


@case("argsort", "numpy")
def argsort(count: int) -> tuple[tuple[Any, ...], Call]:
    """The kernel's order is stable; numpy's is not, by default, which is faster."""
    values = doubles(count)
    return (values,), partial(library("numpy").argsort, values)


@case("sha256", "hashlib")
def sha256(size: int) -> tuple[tuple[Any, ...], Call]:
    data = text(size)
    return (data,), lambda: hashlib.sha256(data).digest()


@case("blake3", "blake3")
def blake3(size: int) -> tuple[tuple[Any, ...], Call]:
    data, function = text(size), library("blake3").blake3
    return (data,), lambda: function(data).digest()


@case("crc32", "zlib")
def crc32(size: int) -> tuple[tuple[Any, ...], Call]:
    data = text(size)
    return (data,), partial(zlib.crc32, data)


@case("zstd.compress", "zstandard")
def zstd_compress(size: int) -> tuple[tuple[Any, ...], Call]:
    data = text(size)
    return (data,), partial(zstd_compressor().compress, data)


@case("zstd.decompress", "zstandard")
def zstd_decompress(size: int) -> tuple[tuple[Any, ...], Call]:
    frame = zstd_compressor().compress(text(size))
    return (frame,), partial(library("zstandard").ZstdDecompressor().decompress, frame)


def zstd_compressor() -> Any:
    return library("zstandard").ZstdCompressor(level=3, write_checksum=True)


@case("gzip.compress", "gzip")
def gzip_compress(size: int) -> tuple[tuple[Any, ...], Call]:
    data = text(size)
    return (data,), partial(gzip.compress, data, 6)


@case("gzip.decompress", "gzip")
def gzip_decompress(size: int) -> tuple[tuple[Any, ...], Call]:
    member = gzip.compress(text(size), 6)
    return (member,), partial(gzip.decompress, member)


@case("zlib.compress", "zlib")
def zlib_compress(size: int) -> tuple[tuple[Any, ...], Call]:
    data = text(size)
    return (data,), partial(zlib.compress, data, 6)


@case("zlib.decompress", "zlib")
def zlib_decompress(size: int) -> tuple[tuple[Any, ...], Call]:
    stream = zlib.compress(text(size), 6)
    return (stream,), partial(zlib.decompress, stream)


@case("lz4.compress", "lz4")
def lz4_compress(size: int) -> tuple[tuple[Any, ...], Call]:
    data, frame = text(size), library("lz4.frame")
    return (data,), partial(frame.compress, data, content_checksum=True)


@case("lz4.decompress", "lz4")
def lz4_decompress(size: int) -> tuple[tuple[Any, ...], Call]:
    lz4 = library("lz4.frame")
    frame = lz4.compress(text(size), content_checksum=True)
    return (frame,), partial(lz4.decompress, frame)


@case("base64.encode", "base64")
def base64_encode(size: int) -> tuple[tuple[Any, ...], Call]:
    data = text(size)
    return (data,), partial(b64encode, data)


@case("base64.decode", "base64")
def base64_decode(size: int) -> tuple[tuple[Any, ...], Call]:
    encoded = b64encode(text(size))
    return (encoded,), partial(b64decode, encoded, validate=True)


def timed(call: Call) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def length(result: Any) -> int:
    """The bytes of what was compressed."""
    return len(result) if isinstance(result, bytes) else memoryview(result).nbytes


def compare(name: str, size: int, repeats: int) -> list[str]:
    """The cells of a row."""
    from hybridloop._core import NativeEngine

    kernel, beside, make = CASES[name]
    try:
        arguments, call = make(size)
    except ImportError:
        return [name, f"{size:,}", NONE, NONE, NONE, NONE, f"{beside} is not installed"]
    engine = NativeEngine(native_threads=1)
    count = max(1, int(SAMPLE_SECONDS / max(timed(call), 1e-9)))
    calls = [arguments] * count

    def run_kernel() -> None:
        engine.run_native_many(kernel, calls).result(TIMEOUT)

    def run_library() -> None:
        for _ in range(count):
            call()

    run_kernel()
    run_library()
    samples = [(timed(run_kernel), timed(run_library)) for _ in range(repeats)]
    cells = [f"{min(taken) / count * 1e6:,.2f}" for taken in zip(*samples, strict=True)]
    # The shortest: what another program takes from this one makes samples longer, never shorter.
    best = [min(taken) for taken in zip(*samples, strict=True)]
    ratios = sorted(own / other for own, other in samples)
    spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"
    notes = beside
    if name.endswith(".compress"):
        own = length(engine.run_native(kernel, *arguments).result(TIMEOUT))
        notes += f"; size {own / length(call()):.2f}"
    engine.close(TIMEOUT)
    return [name, f"{size:,}", *cells, f"{best[0] / best[1]:.2f}", spread, notes]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare built-in kernels with libraries.")
    parser.add_argument("--loops", type=choice_of(LOOPS), default=[SUBJECT])
    parser.add_argument("--cases", type=choice_of(CASES), default=list(CASES))
    parser.add_argument("--sizes", type=numbers, default=SIZES)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    if SUBJECT not in arguments.loops:
        return
    print(
        f"CPU time per call, µs, the shortest of {arguments.repeats} samples; elements or bytes:\n"
    )
    rows = [
        compare(name, size, arguments.repeats)
        for name in arguments.cases
        for size in arguments.sizes
    ]
    head = ["", "size", "kernel", "library", "kernel / library", "median (range)", "beside"]
    print("\n".join(table(head, rows)))


if __name__ == "__main__":
    main()
