"""Loops with errors, to show that the runner notices them. They use private classes of asyncio."""

import asyncio
import atexit
import os
import socket
import threading

PORT = "TESTS_BROKEN_LOOP_PORT"


class FailingLoop(asyncio.SelectorEventLoop):
    async def sock_recv(self, sock, n):
        raise OSError("broken on purpose")


class HangingLoop(asyncio.SelectorEventLoop):
    async def sock_recv(self, sock, n):
        threading.Event().wait()


class ConnectingLoop(HangingLoop):
    """Has a connection that lives as long as the process."""

    async def sock_recv(self, sock, n):
        with socket.create_connection(("127.0.0.1", int(os.environ[PORT]))):
            await super().sock_recv(sock, n)


class CrashingLoop(asyncio.SelectorEventLoop):
    async def sock_recv(self, sock, n):
        os.abort()


class ExitingLoop(asyncio.SelectorEventLoop):
    async def sock_recv(self, sock, n):
        os._exit(3)


class CrashingAtExitLoop(asyncio.SelectorEventLoop):
    """Crashes once the tests are over, as a fault in a finalizer can."""

    def __init__(self):
        super().__init__()
        atexit.register(os.abort)


def no_loop():
    raise RuntimeError("no loop today")


class BypassedLoop(asyncio.SelectorEventLoop):
    """Does its work on a loop that is not the one under test."""

    def __init__(self):
        super().__init__()
        asyncio.unix_events._UnixSelectorEventLoop().close()


class FinalizerLoop(asyncio.SelectorEventLoop):
    """Raises where nobody can catch it."""

    def __del__(self):
        raise RuntimeError("finalizer broken on purpose")
