"""A kernel in Python, compiled by numba: `pip install numba`.

python -m examples.kernels.numba_kernel
"""

from __future__ import annotations

import asyncio
import math

import numpy as np
from numba import carray, cfunc, types  # type: ignore[attr-defined]

import hybridloop

DOUBLES = types.CPointer(types.float64)  # type: ignore[no-untyped-call]


@cfunc(types.float64(DOUBLES, DOUBLES, types.uintp))
def route_length(latitudes, longitudes, count):  # type: ignore[no-untyped-def]
    """The length in km of the route through points on the globe, given in degrees."""
    phi = carray(latitudes, count)
    theta = carray(longitudes, count)
    total = 0.0
    for i in range(1, count):
        a, b = math.radians(phi[i - 1]), math.radians(phi[i])
        half = math.radians(theta[i] - theta[i - 1]) / 2
        h = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(half) ** 2
        total += 2 * 6371.0 * math.asin(math.sqrt(h))
    return total


async def main() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, hybridloop.Loop)
    cities = {"Lisbon": (38.72, -9.14), "Madrid": (40.42, -3.70), "Paris": (48.86, 2.35)}
    latitudes = np.array([latitude for latitude, _ in cities.values()])
    longitudes = np.array([longitude for _, longitude in cities.values()])
    length = await loop.run_native("geo.route", latitudes, longitudes, len(cities))
    print(f"{' - '.join(cities)}: {length:.0f} km")

    # Many at a time: one submission, and the loop is woken once.
    rng = np.random.default_rng(1)
    routes = [(rng.uniform(-80, 80, 1000), rng.uniform(-180, 180, 1000), 1000) for _ in range(100)]
    lengths = await loop.run_native_many("geo.route", routes)
    print(f"{len(lengths)} routes, the longest {max(lengths):.0f} km")


# numba knows the types, so the signature need not be written again.
kernel = hybridloop.register_kernel("geo.route", route_length, doc=route_length.__doc__)

if __name__ == "__main__":
    print(f"{kernel.name}  {kernel.signature}")
    hybridloop.run(main())
