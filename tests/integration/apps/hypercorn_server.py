"""hypercorn served by program on the loop under test, until SIGTERM."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket

from asgi_app import app
from hypercorn.asyncio import serve
from hypercorn.config import Config


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.graceful_timeout = 1.0
    config.keep_alive_timeout = 300.0
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("port", listener.getsockname()[1])
    await serve(app, config, shutdown_trigger=stop.wait)


if __name__ == "__main__":
    new_event_loop = importlib.import_module(os.environ["HYBRIDLOOP_TEST_LOOP"]).new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
