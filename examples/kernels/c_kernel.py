"""Two kernels in C: built with the C compiler, loaded, run.

python -m examples.kernels.c_kernel
"""

from __future__ import annotations

import asyncio
import math
import subprocess
import tempfile
from array import array
from pathlib import Path

import hybridloop

HERE = Path(__file__).parent
INCLUDE = HERE.parents[1] / "include"


def build(directory: Path) -> Path:
    """Compile c/signal.c to a shared library."""
    library = directory / "libsignal.so"
    command = ["cc", "-std=c99", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", f"-I{INCLUDE}"]
    subprocess.run([*command, "-o", library, HERE / "c" / "signal.c"], check=True)
    return library


async def main() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, hybridloop.Loop)
    # Five waves.
    count = 100_000
    values = array("d", (math.sin(10 * math.pi * i / count) for i in range(count)))
    smoothed = array("d", bytes(8 * count))
    steps: list[int] = []

    await loop.run_native(
        "signal.smooth",
        values,
        smoothed,
        101,
        on_progress=lambda done, total: steps.append(done),
    )
    print(f"smoothed {count:,} values, heard last that {steps[-1]:,} were done")

    peaks = await loop.run_native("signal.peaks", smoothed, 0.5)
    print("peaks at", [round(place / count, 2) for place in memoryview(peaks)])

    # What a kernel refuses is an exception with the kernel's own words.
    try:
        await loop.run_native("signal.smooth", values, smoothed, 0)
    except ValueError as error:
        print("refused:", error)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        for kernel in hybridloop.load_kernels(build(Path(directory))):
            print(f"{kernel.name}  {kernel.signature}")
    hybridloop.run(main())
