"""What a program or its peer decides the size of ends in `MemoryError`, and the process lives.

Each scenario is a process of its own with a limit on its memory. It goes on for a while after the
first refusal, because then the smallest pieces are refused as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere the limit is not kept"
)

PRELUDE = """
import asyncio, contextlib, gc, itertools, resource, socket, sys, threading
import hybridloop

FREE = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
reports = []

def handler(loop, context):
    reports.append(context["exception"])

@contextlib.contextmanager
def little_memory(megabytes=24):
    gc.collect()
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    limit = (size + megabytes * 2**20, resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_AS, limit)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, FREE)

def fill(step, refusals=3000):
    # The first refusal is of something large. Counting them would need memory.
    for _ in itertools.repeat(None, refusals):
        try:
            while True:
                step()
        except MemoryError:
            pass

def check(loop):
    loop.run_until_complete(asyncio.wait_for(asyncio.sleep(0.001), 100))

def nothing(*args):
    pass

loop = hybridloop.new_event_loop()
loop.set_exception_handler(handler)
check(loop)
"""

SCENARIOS = {
    "call_soon": """
        with little_memory():
            fill(lambda: loop.call_soon(nothing))
        check(loop)
    """,
    "call_soon while the loop runs": """
        def flood():
            with little_memory():
                fill(lambda: loop.call_soon(nothing, 1, 2))

        loop.call_soon(flood)
        check(loop)
    """,
    "timers": """
        with little_memory():
            fill(lambda: loop.call_later(0, nothing))
        check(loop)
    """,
    "timers that are cancelled": """
        handles = [loop.call_later(3600, nothing) for _ in range(1000)]
        with little_memory():
            fill(lambda: handles.append(loop.call_later(3600, nothing)))
            for _ in itertools.repeat(None, len(handles) // 3):
                handles.pop()
            for handle in handles:
                handle.cancel()
        check(loop)
    """,
    "timers that are due together": """
        def fill_up():
            with little_memory():
                fill(lambda: loop.call_at(0, nothing))
            loop.call_soon(lambda: None)

        async def main():
            fill_up()
            with little_memory(1):
                for _ in range(100):
                    await asyncio.sleep(0)

        loop.run_until_complete(main())
        check(loop)
    """,
    "call_soon_threadsafe": """
        def flood():
            with little_memory():
                fill(lambda: loop.call_soon_threadsafe(nothing))
            loop.call_soon_threadsafe(loop.stop)

        thread = threading.Thread(target=flood)
        with little_memory():
            fill(lambda: loop.call_soon_threadsafe(nothing))
        check(loop)
        thread.start()
        thread.join()
        loop.run_forever()
        check(loop)
    """,
    "write and writelines": """
        async def main():
            left, right = socket.socketpair()
            left.setblocking(False)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
            transport.write(b"x" * 10**6)

            def endless():
                while True:
                    yield b"x"

            with little_memory():
                fill(lambda: transport.writelines(endless()), 20)
                fill(lambda: transport.write(b"xy"))
            transport.abort()
            right.close()
            await asyncio.sleep(0.001)

        loop.run_until_complete(main())
        check(loop)
    """,
    "write over TLS": """
        import ssl

        def context(side):
            # Anonymous: nobody needs a certificate.
            made = ssl.SSLContext(side)
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
            made.maximum_version = ssl.TLSVersion.TLSv1_2
            made.set_ciphers("AECDH:@SECLEVEL=0")
            return made

        async def main():
            server = await loop.create_server(
                asyncio.Protocol, "127.0.0.1", 0, ssl=context(ssl.PROTOCOL_TLS_SERVER)
            )
            address = server.sockets[0].getsockname()
            transport, _ = await loop.create_connection(
                asyncio.Protocol, *address, ssl=context(ssl.PROTOCOL_TLS_CLIENT)
            )
            large = bytearray(64 * 2**20)

            def endless():
                while True:
                    yield b"x"

            with little_memory():
                fill(lambda: transport.write(large), 20)
                fill(lambda: transport.writelines(endless()), 20)
            transport.abort()
            server.close()
            await asyncio.sleep(0.001)

        loop.run_until_complete(main())
        check(loop)
    """,
    "sendto": """
        async def main():
            left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            left.setblocking(False)
            transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=left)
            with little_memory():
                fill(lambda: transport.sendto(b"x" * 100))
            transport.abort()
            right.close()
            await asyncio.sleep(0.001)

        loop.run_until_complete(main())
        check(loop)
    """,
    "a peer that sends without end": """
        def send(peer):
            data = b"x" * 2**16
            with contextlib.suppress(OSError):
                while True:
                    peer.sendall(data)

        async def main(streams):
            left, right = socket.socketpair()
            thread = threading.Thread(target=send, args=(right,))
            thread.start()
            reader, writer = await streams.open_connection(sock=left, limit=2**40)
            try:
                with little_memory(64):
                    await reader.read(-1)
            except MemoryError:
                pass
            else:
                raise AssertionError("it ended")
            writer.transport.abort()
            await asyncio.sleep(0.001)
            thread.join()
            del reader, writer

        loop.run_until_complete(main(hybridloop))
        loop.run_until_complete(main(asyncio))
        check(loop)
    """,
    "sockets that many wait for": """
        async def main():
            left, right = socket.socketpair()
            left.setblocking(False)
            kept = []

            def wait():
                coroutine = loop.sock_recv(left, 1)
                kept.append(coroutine)
                coroutine.send(None)

            with little_memory():
                fill(wait)
            right.send(b"x")
            await asyncio.sleep(0.001)
            for coroutine in kept:
                coroutine.close()
            left.close()
            right.close()

        loop.run_until_complete(main())
        check(loop)
    """,
    "channels": """
        channel = hybridloop.Channel()
        with little_memory():
            fill(lambda: channel.push("x" * 10**6), 100)
            fill(lambda: channel.push(b"x" * 10**5), 100)
            fill(lambda: channel.push("x" * 1000))
            fill(lambda: channel.push(1))
        assert channel.flush()
        channel.push("x")
        assert channel.pop() == "x"
    """,
    "native jobs": """
        class Liar:
            def __len__(self):
                return 2**62

            def __iter__(self):
                return iter([()] * 3)

        def endless():
            while True:
                yield ()

        # So many that the memory ends before the limit of calls is reached.
        loop.native_engine = hybridloop.NativeEngine(max_native_queue=2**30)
        assert len(loop.run_until_complete(loop.run_native_many("hl.noop", Liar()))) == 3
        check(loop)
        with little_memory():
            fill(lambda: loop.run_native_many("hl.noop", endless()), 20)
        check(loop)
    """,
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_is_too_much_is_refused(name: str) -> None:
    program = PRELUDE + textwrap.dedent(SCENARIOS[name]) + "\nloop.close()\nprint('end')\n"
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "end\n"), result.stderr
    assert "internal error" not in result.stderr
