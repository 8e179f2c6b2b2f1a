"""A kernel in Rust: built with cargo, loaded, run; its result is an array that Python shares.

python -m examples.kernels.rust_kernel
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hybridloop

CRATE = Path(__file__).parent / "rust"


def build() -> Path:
    """Build the crate rust/; give the path of its library."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", CRATE / "target"))
    manifest = CRATE / "Cargo.toml"
    command = ["cargo", "build", "--release", "--quiet", "--manifest-path", str(manifest)]
    subprocess.run([*command, "--target-dir", str(target)], check=True)
    return (
        target / "release" / ("libfractal.dylib" if sys.platform == "darwin" else "libfractal.so")
    )


async def main() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, hybridloop.Loop)
    rows, columns, steps = 24, 72, 1000
    result = await loop.run_native("fractal.mandelbrot", rows, columns, steps)
    grid: Any = memoryview(result).tolist()
    print(f"{len(grid)} rows of {len(grid[0])} points, format {result.format!r}")
    for row in grid:
        print("".join(" .:-=+*#%@"[min(9, point.bit_length())] for point in row))

    # Late, so it ends: a kernel that looks at ctx.check() keeps to deadlines as well.
    try:
        await loop.run_native("fractal.mandelbrot", 4_000, 4_000, steps, timeout=0.05)
    except TimeoutError:
        print("too much for 50 ms")

    # Cancelling works alike, also through the task that waits.
    job = loop.run_native("fractal.mandelbrot", 4_000, 4_000, steps)
    job.cancel()
    try:
        await job
    except asyncio.CancelledError:
        print("cancelled")


if __name__ == "__main__":
    hybridloop.load_kernels(build())
    hybridloop.run(main())
