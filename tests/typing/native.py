"""What type checkers know of kernels: mypy checks this file, nothing runs it."""

from collections.abc import Callable
from typing import Any, assert_type

import hybridloop
from hybridloop import (
    Kernel,
    NativeBatch,
    NativeBuffer,
    NativeJob,
    kernel,
    kernels,
    run_native,
    run_native_many,
)

from . import builtin_kernels as builtin


def kernels_are_callable(plain: Kernel, either: Kernel | str) -> None:
    assert_type(kernels["hl.sha256"], Kernel[..., Any])
    assert_type(plain(b"x", level=3, timeout=5), NativeJob[Any])
    assert_type(run_native(plain, b"x", level=3), NativeJob[Any])
    assert_type(run_native("hl.crc32", b"x", 5, key="result", start=5), NativeJob[Any])
    assert_type(run_native(either, b"x", timeout=5), NativeJob[Any])
    assert_type(run_native_many(either, [(b"x",)], return_exceptions=True), NativeBatch[Any])
    function: Callable[[bytes], NativeJob[Any]] = plain
    function(b"x")
    print(plain.nothing)  # type: ignore[attr-defined]
    run_native("hl.crc32", b"x", timeout="5")  # type: ignore[call-overload]
    run_native(5)  # type: ignore[call-overload]


def typed_kernels(
    scale: Kernel[[list[float], float], float], loop: hybridloop.Loop, engine: hybridloop.Engine
) -> None:
    assert_type(scale([1.0], 2.0), NativeJob[float])
    assert_type(run_native(scale, [1.0], 2.0), NativeJob[float])
    assert_type(loop.run_native(scale, [1.0], 2.0), NativeJob[float])
    assert_type(engine.run_native(scale, [1.0], 2.0), NativeJob[float])
    assert_type(engine.run_native("hl.crc32", b"x"), NativeJob[Any])
    assert_type(run_native_many(scale, [([1.0], 2.0)]), NativeBatch[float])
    assert_type(engine.run_native_many(scale, [([1.0], 2.0)]), NativeBatch[float])
    scale("x", 2.0)  # type: ignore[arg-type]
    run_native(scale, [1.0])  # type: ignore[call-overload]


async def jobs_are_awaitable(job: NativeJob[float], batch: NativeBatch[float]) -> None:
    assert_type(await job, float)
    assert_type(await batch, list[float])
    assert_type(job.result(), float)


async def declared_kernels(loop: hybridloop.Loop) -> None:
    assert_type(await builtin.crc32(b"x", start=5, timeout=1), int)
    assert_type(await run_native(builtin.crc32, b"x", priority=1), int)
    assert_type(await loop.run_native(builtin.sha256, data=b"x"), NativeBuffer)
    assert_type(await builtin.bus_discard("key", key="result"), bool)
    assert_type(await builtin.zstd_compress(builtin.noop.name.encode(), 3), NativeBuffer)
    builtin.crc32("text")  # type: ignore[arg-type]
    builtin.crc32(b"x", seed=5)  # type: ignore[call-arg]
    builtin.crc32()  # type: ignore[call-arg]
    builtin.crc32(b"x", timeout="5")  # type: ignore[arg-type]
    run_native(builtin.crc32, "text")  # type: ignore[call-overload]


@kernel("f64(f64* values, usize n)", fastmath=True)
def mean(values: list[float], n: int) -> float:
    return sum(values[i] for i in range(n)) / n


assert_type(mean, Kernel[..., Any])
assert_type(mean([1.0], 1), NativeJob[Any])
