"""Functions of libraries that are there anyway: zlib and the C library, by ctypes.

python -m examples.kernels.ctypes_kernels
"""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import zlib
from array import array

import hybridloop


def register() -> None:
    """Make kernels of zlib's crc32() and compress2(), and of the C library's strnlen()."""
    libz = ctypes.CDLL(ctypes.util.find_library("z"))
    # With argtypes and restype, a function of ctypes says itself what it takes.
    crc32 = libz.crc32
    crc32.argtypes = [ctypes.c_ulong, ctypes.POINTER(ctypes.c_ubyte), ctypes.c_uint]
    crc32.restype = ctypes.c_ulong
    hybridloop.register_kernel("zlib.crc32", crc32)

    # A signature that is written out can say more: names, which memory is written to, defaults.
    hybridloop.register_kernel(
        "zlib.compress2",
        libz.compress2,
        "int(out u8* target, out unsigned long* length,"
        " const u8* source, unsigned long n, int level = 6)",
    )

    # A library by its name and a function in it, without ctypes; None is the process itself.
    hybridloop.register_kernel("libc.strnlen", (None, "strnlen"), "usize(const u8* text, usize n)")


async def main() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, hybridloop.Loop)
    data = b"It was the best of times, it was the worst of times. " * 20_000

    checksum = await loop.run_native("zlib.crc32", 0, data, len(data))
    print(f"crc32 {checksum:08x}, as Python's: {checksum == zlib.crc32(data)}")

    target = bytearray(len(data))
    length = array("L", [len(target)])
    status = await loop.run_native("zlib.compress2", target, length, data, len(data))
    unpacked = zlib.decompress(memoryview(target)[: length[0]])
    print(f"compress2 {status}: {len(data):,} -> {length[0]:,} bytes, back: {unpacked == data}")

    print("strnlen", await loop.run_native("libc.strnlen", b"twelve bytes\0and more", 100))

    # Arguments are checked before anything runs, by name.
    try:
        loop.run_native("zlib.compress2", b"not writable", length, data, len(data))
    except ValueError as error:
        print("refused:", error)


if __name__ == "__main__":
    register()
    hybridloop.run(main())
