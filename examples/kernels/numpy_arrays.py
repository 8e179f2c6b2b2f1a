"""Arrays of numpy in and out, without a copy: `pip install numpy`.

python -m examples.kernels.numpy_arrays
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import numpy as np

import hybridloop
from examples.kernels import c_kernel


def address(array: np.ndarray) -> int:
    """Where the elements of an array lie."""
    return int(array.__array_interface__["data"][0])


async def main() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, hybridloop.Loop)
    rng = np.random.default_rng(7)

    # Out: a result is memory of the engine, and the array looks at it where it is.
    values = rng.normal(size=1_000_000)
    result = await loop.run_native("hl.sort", values)
    ordered = np.asarray(result)
    shared = address(ordered) == address(np.asarray(memoryview(result)))
    print(f"sorted {ordered.size:,} x {ordered.dtype}: {np.array_equal(ordered, np.sort(values))}")
    print(f"the array is the result itself: {shared}; writable: {ordered.flags.writeable}")

    # A result goes into the next kernel as it is.
    print(f"sum {await loop.run_native('hl.sum', result):.6f}, numpy's {values.sum():.6f}")

    # In and out: the kernel writes to an array of ours.
    smoothed = np.empty_like(values)
    before = address(smoothed)
    await loop.run_native("signal.smooth", values, 10, out=smoothed)
    expected = np.convolve(values, np.ones(10) / 10, mode="valid")
    print(
        f"smoothed in place: {address(smoothed) == before and np.allclose(smoothed[9:], expected)}"
    )

    # What a kernel writes to is nobody else's as long as it runs: no other argument's, no other
    # job's.
    try:
        loop.run_native("signal.smooth", values, 10, out=values)
    except hybridloop.BufferInUseError as error:
        print("refused:", error)

    # What does not lie in memory as the kernel expects it is refused, and not copied unasked.
    try:
        loop.run_native("signal.smooth", values[::2], 10, out=smoothed[::2].copy())
    except ValueError as error:
        print("refused:", error)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        hybridloop.load_kernels(c_kernel.build(Path(directory)))
    hybridloop.run(main())
