"""hybridloop by the name of another loop: the folder of a run has it as ``uvloop.py`` and such.

As ``sitecustomize.py`` it puts the loop that the environment names in the place of asyncio's, for
programs that name no loop.
"""

import importlib
import os

# Set by benchmarks.others.places.
IN_PLACE_OF_ASYNCIO = "BENCHMARKS_LOOP"


def replace_asyncio(name: str) -> None:
    import asyncio
    import asyncio.events

    factory = importlib.import_module(name).new_event_loop
    asyncio.new_event_loop = asyncio.events.new_event_loop = factory


if __name__ == "sitecustomize":
    chosen = os.environ.get(IN_PLACE_OF_ASYNCIO)
    if chosen:
        replace_asyncio(chosen)
else:
    from hybridloop import Loop, install, new_event_loop, run

    __all__ = ["Loop", "install", "libuv_version", "new_event_loop", "run"]
    __version__ = "hybridloop"

    def libuv_version() -> str:
        """zuvloop's benchmark prints it."""
        return "none"
