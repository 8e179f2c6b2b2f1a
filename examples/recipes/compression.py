"""A response is compressed off the loop, and a request is decompressed with a limit.

python -m examples.recipes.compression
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Awaitable

import hybridloop


def page(size: int) -> bytes:
    words = ["loop", "task", "future", "stream", "socket", "timer", "signal", "kernel"]
    rng = random.Random(7)
    text = ""
    while len(text) < size:
        lines = [" ".join(rng.choices(words, k=9)) + f" {rng.random()}" for _ in range(2000)]
        text += "\n".join(lines)
    return text[:size].encode()


PAGE = page(1 << 20)


def plain() -> object:
    return gzip.compress(PAGE, 6)


def kernel() -> Awaitable[object]:
    return hybridloop.run_native("hl.gzip.compress", PAGE, 6)


async def main() -> None:
    body = await hybridloop.run_native("hl.gzip.compress", PAGE, level=6)
    print("as gzip does:", gzip.decompress(body) == PAGE)
    # A small request may become a large one.
    try:
        await hybridloop.run_native("hl.gzip.decompress", body, max_size=1 << 16)
    except ValueError as error:
        print("refused:", error)
    # Many at a time, for the price of one wake-up of the loop.
    parts = [(PAGE[start : start + (1 << 16)],) for start in range(0, len(PAGE), 1 << 16)]
    frames = await hybridloop.run_native_many("hl.zstd.compress", parts)
    whole = await hybridloop.run_native("hl.zstd.decompress", b"".join(map(bytes, frames)))
    print(f"{len(frames)} frames are one:", whole == PAGE)


if __name__ == "__main__":
    hybridloop.run(main())
