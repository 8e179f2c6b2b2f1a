"""granian with the loop under test, registered the way its documentation shows."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys

from granian import Granian, loops


@loops.register("auto")
def build_loop() -> asyncio.AbstractEventLoop:
    module = importlib.import_module(os.environ["HYBRIDLOOP_TEST_LOOP"])
    loop: asyncio.AbstractEventLoop = module.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


if __name__ == "__main__":
    Granian(
        "asgi_app:app",
        address="127.0.0.1",
        port=int(sys.argv[1]),
        interface="asgi",
        loop="auto",
    ).serve()
