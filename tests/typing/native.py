"""What type checkers know of kernels: mypy checks this file, nothing runs it."""

from collections.abc import Callable
from typing import Any, assert_type

import hybridloop
from hybridloop import Kernel, NativeBatch, NativeJob, kernels, run_native, run_native_many


def kernels_are_callable(kernel: Kernel, either: Kernel | str) -> None:
    assert_type(kernels["hl.sha256"], Kernel[..., Any])
    assert_type(kernel(b"x", level=3, timeout=5), NativeJob[Any])
    assert_type(run_native(kernel, b"x", level=3), NativeJob[Any])
    assert_type(run_native("hl.crc32", b"x", 5, key="result", start=5), NativeJob[Any])
    assert_type(run_native(either, b"x", timeout=5), NativeJob[Any])
    assert_type(run_native_many(either, [(b"x",)], return_exceptions=True), NativeBatch[Any])
    function: Callable[[bytes], NativeJob[Any]] = kernel
    function(b"x")
    print(kernel.nothing)  # type: ignore[attr-defined]
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
