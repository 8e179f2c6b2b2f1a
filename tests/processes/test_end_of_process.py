"""The process ends as it should while threads of it still run loops, or are inside the extension.

Each scenario is a program of its own. What happens at the end depends on where its threads are just
then, so each runs several times.
"""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap

import pytest

RUNS = 5
AT_A_TIME = 5

PRELUDE = """
import asyncio, atexit, hashlib, os, socket, sys, threading, time
import hybridloop

started = threading.Event()

def in_daemon(function, *args):
    threading.Thread(target=function, args=args, daemon=True).start()

def run_in_daemon(main, *args):
    in_daemon(lambda: hybridloop.run(main(*args)))

async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
"""

WORK = {
    "busy": """
        async def main():
            started.set()
            while True:
                await asyncio.sleep(0)

        run_in_daemon(main)
    """,
    "sleeping": """
        async def main():
            started.set()
            while True:
                await asyncio.sleep(0.0001)

        run_in_daemon(main)
    """,
    "a callback that blocks": """
        async def main():
            started.set()
            time.sleep(3600)

        run_in_daemon(main)
    """,
    "datagrams": """
        class Protocol(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport

            def datagram_received(self, data, address):
                started.set()
                self.transport.sendto(data, address)

        async def main():
            loop = asyncio.get_running_loop()
            address = ("127.0.0.1", 0)
            a, _ = await loop.create_datagram_endpoint(Protocol, local_addr=address)
            b, _ = await loop.create_datagram_endpoint(Protocol, local_addr=address)
            a.sendto(b"x", b.get_extra_info("sockname"))
            await asyncio.sleep(3600)

        run_in_daemon(main)
    """,
    "protocols": """
        class Protocol(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
                transport.write(b"x")

            def data_received(self, data):
                started.set()
                self.transport.write(data)

        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Protocol, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            for _ in range(5):
                await loop.create_connection(Protocol, *address)
            await asyncio.sleep(3600)

        run_in_daemon(main)
    """,
    "streams": """
        async def talk(address, streams):
            reader, writer = await streams.open_connection(*address)
            while True:
                writer.write(b"x" * 1000 + b"\\n")
                await reader.readline()
                started.set()

        async def main(streams):
            server = await streams.start_server(echo, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            await asyncio.gather(*(talk(address, streams) for _ in range(4)))

        run_in_daemon(main, asyncio)
        run_in_daemon(main, hybridloop)
    """,
    "names": """
        async def main():
            loop = asyncio.get_running_loop()
            while True:
                await asyncio.gather(*(loop.getaddrinfo("localhost", 80) for _ in range(4)))
                await loop.getaddrinfo("127.0.0.1", 80)
                started.set()

        run_in_daemon(main)
    """,
    "call_soon_threadsafe": """
        class Noisy:
            def __del__(self):
                for _ in range(20):
                    pass

        def flood(loop):
            while True:
                loop.call_soon_threadsafe(lambda noisy: noisy, Noisy())
                started.set()

        async def main():
            for _ in range(2):
                in_daemon(flood, asyncio.get_running_loop())
            await asyncio.sleep(3600)

        run_in_daemon(main)
    """,
    "native jobs": """
        async def main():
            loop = asyncio.get_running_loop()
            while True:
                try:
                    await asyncio.gather(*(loop.run_native("hl.noop") for _ in range(9)))
                except (asyncio.CancelledError, hybridloop.NativeClosedError):  # at exit
                    await asyncio.sleep(3600)
                started.set()

        run_in_daemon(main)
    """,
    "native jobs without a loop": """
        def work(engine, channel):
            while True:
                try:
                    engine.run_native("hl.noop").result()
                except (asyncio.CancelledError, hybridloop.NativeClosedError):  # at exit
                    time.sleep(3600)
                channel.push("x")
                channel.pop()
                started.set()

        for _ in range(3):
            in_daemon(work, hybridloop.NativeEngine(), hybridloop.Channel())
    """,
    "native jobs of asyncio's loop": """
        async def main(engine):
            while True:
                try:
                    await engine.run_native("hl.noop")
                except (asyncio.CancelledError, hybridloop.NativeClosedError):  # at exit
                    time.sleep(3600)
                started.set()

        in_daemon(lambda: asyncio.run(main(hybridloop.NativeEngine())))
    """,
    "an engine that is not closed": """
        async def work():
            while True:
                await asyncio.sleep(0)
                started.set()

        engine = hybridloop.Engine(gil_threads=2).start()
        handles = [engine.spawn(work()) for _ in range(4)]
    """,
}

UNCLOSED = """
    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            kept.append(transport)
            started.set()

    kept = []
    loop = hybridloop.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Protocol, "127.0.0.1", 0))
    address = server.sockets[0].getsockname()
    kept.append(loop.run_until_complete(loop.create_connection(Protocol, *address)))
    kept.append(loop.run_until_complete(hybridloop.open_connection(*address)))
    loop.call_later(3600, print, "never")
    loop.call_soon(print, "never")
    kept.append(loop.run_native("hl.sleep", 0.5))
    native = hybridloop.NativeEngine()
    kept.append(native.run_native("hl.noop"))
    loop.me = loop
"""

LEAVING = """
    async def main():
        loop = asyncio.get_running_loop()
        loop.call_later(0.001, started.set)
        await asyncio.sleep(0.002)
        loop.call_soon(sys.exit, 3)
        await asyncio.sleep(3600)

    for _ in range(3):
        run_in_daemon(main)
    time.sleep(0.02)
"""

AT_EXIT = """
    def stop():
        # The loop of the daemon thread still runs, and answers.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001), loops[0]).result(100)
        hybridloop.run(asyncio.sleep(0.001))
        print("stopped")

    atexit.register(stop)
    loops = []

    async def main():
        loops.append(asyncio.get_running_loop())
        started.set()
        while True:
            await asyncio.sleep(0)

    run_in_daemon(main)
"""


async def run_all(program: str, ends: str = "") -> list[tuple[int | None, str]]:
    """Runs a program several times; exit codes and output."""
    gate = asyncio.Semaphore(AT_A_TIME)
    last = "\nassert started.wait(100)\ntime.sleep(0.01)\n"
    program = PRELUDE + textwrap.dedent(program) + last + ends

    async def run() -> tuple[int | None, str]:
        async with gate:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", program),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            try:
                output, _ = await asyncio.wait_for(child.communicate(), 250)
            except TimeoutError:
                child.kill()
                await child.wait()
                return None, "the process does not end"
            return child.returncode, output.decode()

    return await asyncio.gather(*(run() for _ in range(RUNS)))


@pytest.mark.parametrize("work", WORK)
def test_daemon_threads_are_left_alone(work: str) -> None:
    assert asyncio.run(run_all(WORK[work])) == [(0, "")] * RUNS


def test_functions_called_at_exit_can_use_loops(clean_end: None) -> None:
    assert asyncio.run(run_all(AT_EXIT)) == [(0, "stopped\n")] * RUNS


def test_loops_transports_and_engines_that_are_not_closed() -> None:
    assert asyncio.run(run_all(UNCLOSED)) == [(0, "")] * RUNS


def test_exits_of_daemon_threads_are_their_own() -> None:
    assert asyncio.run(run_all(LEAVING)) == [(0, "")] * RUNS
