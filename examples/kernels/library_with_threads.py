"""A C library that calls back from its own thread: a kernel returns, the library completes its job.

python -m examples.kernels.library_with_threads
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from pathlib import Path

import hybridloop

HERE = Path(__file__).parent
INCLUDE = HERE.parents[1] / "include"


def build(directory: Path) -> Path:
    """Compile c/meter.c and the library to a shared library."""
    library = directory / "libmeter.so"
    command = ["cc", "-std=c99", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-pthread"]
    sources = [HERE / "c" / "meter.c", HERE.parent / "awaitables" / "c" / "device.c"]
    subprocess.run([*command, f"-I{INCLUDE}", "-o", library, *sources], check=True)
    return library


async def main() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, hybridloop.Loop)
    # One worker is enough, however many measurements are under way.
    loop.native_engine = engine = hybridloop.NativeEngine(native_threads=1)
    print("one:", await loop.run_native("meter.measure"))
    jobs = [loop.run_native("meter.measure") for _ in range(5)]
    print("while they wait:", await loop.run_native("hl.crc32", b"the worker is free"))
    print("several:", *await asyncio.gather(*jobs))
    engine.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        for kernel in hybridloop.load_kernels(build(Path(directory))):
            print(f"{kernel.name}  {kernel.signature}  {kernel.doc}")
    hybridloop.run(main())
