"""A C library that completes in its own thread: coroutines in C wait for it.

python -m examples.awaitables.sensor
"""

from __future__ import annotations

import asyncio
import inspect

import hybridloop
from examples.awaitables.extensions import build_c


async def main() -> None:
    module = build_c("sensor", "device")
    sensor = module.Sensor(2)
    print(f"Sensor.read{inspect.signature(module.Sensor.read)}: {module.Sensor.read.__doc__}")
    print("one:", await sensor.read())
    values = await asyncio.gather(*(sensor.read() for _ in range(5)))
    print("several:", *values)

    # The thread goes on, and finds a coroutine that has ended.
    slow = module.Sensor(500)
    try:
        async with asyncio.timeout(0.005):
            await slow.read()
    except TimeoutError:
        print("too slow")
    print("afterwards:", await slow.read())


if __name__ == "__main__":
    hybridloop.run(main())
