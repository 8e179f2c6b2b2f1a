"""Arrays of numpy are sorted off the loop, without a copy of the result: `pip install numpy`.

python -m examples.recipes.sorting
"""

from __future__ import annotations

from collections.abc import Awaitable

import numpy as np

import hybridloop

VALUES = np.random.default_rng(7).normal(size=500_000)


def plain() -> object:
    return np.sort(VALUES)


def kernel() -> Awaitable[object]:
    return hybridloop.run_native("hl.sort", VALUES)


async def main() -> None:
    ordered = np.asarray(await hybridloop.run_native("hl.sort", VALUES))
    print("as numpy does:", np.array_equal(ordered, np.sort(VALUES)))
    places = np.asarray(await hybridloop.run_native("hl.argsort", VALUES))
    print("the places:", np.array_equal(VALUES[places], ordered))
    counts = np.asarray(await hybridloop.run_native("hl.histogram", VALUES, 4, -2.0, 2.0))
    print("a histogram:", counts.shape, counts.dtype)


if __name__ == "__main__":
    hybridloop.run(main())
