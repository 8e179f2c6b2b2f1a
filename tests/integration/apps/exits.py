"""SystemExit and KeyboardInterrupt leave `run_forever` from wherever they are raised."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

from scenario import CASES, Client, Recorder, case, main, new_event_loop

__all__ = ["CASES"]

EXITS: list[type[BaseException]] = [SystemExit, KeyboardInterrupt]


def leaves_the_loop(
    arrange: Callable[[asyncio.AbstractEventLoop, Callable[[], None]], None],
) -> None:
    """What `arrange` makes raise an exit leaves `run_forever`; the loop can run on and close."""
    for kind in EXITS:
        loop = new_event_loop()
        raised = []

        def leave(kind: type[BaseException] = kind, raised: list[object] = raised) -> None:
            raised.append(kind)
            if len(raised) == 1:
                raise kind

        loop.call_later(60.0, loop.stop)
        arrange(loop, leave)
        try:
            loop.run_forever()
        except kind:
            pass
        else:
            raise AssertionError(f"{kind.__name__} did not leave the loop; raised: {raised}")
        assert not loop.is_running()
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()


@case
def exit_from_call_soon() -> None:
    leaves_the_loop(lambda loop, leave: loop.call_soon(leave) and None)


@case
def exit_from_timer() -> None:
    leaves_the_loop(lambda loop, leave: loop.call_later(0.001, leave) and None)


@case
def exit_from_threadsafe() -> None:
    def arrange(loop: asyncio.AbstractEventLoop, leave: Callable[[], None]) -> None:
        timer = threading.Timer(0.01, loop.call_soon_threadsafe, [leave])
        timer.daemon = True
        timer.start()

    leaves_the_loop(arrange)


@case
def exit_from_task() -> None:
    def arrange(loop: asyncio.AbstractEventLoop, leave: Callable[[], None]) -> None:
        async def task() -> None:
            await asyncio.sleep(0)
            leave()

        loop.own_task = loop.create_task(task())  # type: ignore[attr-defined]
        loop.own_task.add_done_callback(lambda done: done.exception())  # type: ignore[attr-defined]

    leaves_the_loop(arrange)


@case
def exit_from_reader_and_writer() -> None:
    def arrange(loop: asyncio.AbstractEventLoop, leave: Callable[[], None]) -> None:
        ours, theirs = socket.socketpair()
        theirs.send(b"x")

        def leave_once() -> None:
            loop.remove_reader(ours)
            loop.remove_writer(ours)
            ours.close()
            theirs.close()
            leave()

        loop.add_reader(ours, leave_once)
        loop.add_writer(ours, leave_once)

    leaves_the_loop(arrange)


@case
def exit_from_signal_handler() -> None:
    def arrange(loop: asyncio.AbstractEventLoop, leave: Callable[[], None]) -> None:
        loop.add_signal_handler(signal.SIGUSR1, leave)
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)

    leaves_the_loop(arrange)


def exit_from_protocol(callback: str) -> None:
    def arrange(loop: asyncio.AbstractEventLoop, leave: Callable[[], None]) -> None:
        def leaving(self: Recorder, *args: Any) -> Any:
            result = getattr(Recorder, callback, lambda *args: None)(self, *args)
            leave()
            return result

        class Leaving(Recorder):
            def data_received(self, data: bytes) -> None:
                self.transport.write(b"x" * (8 << 20) if callback == "pause_writing" else data)

        setattr(Leaving, callback, leaving)
        ours, theirs = socket.socketpair()
        loop.theirs = theirs  # type: ignore[attr-defined]
        loop.create_task(loop.create_connection(Leaving, sock=ours))  # type: ignore[arg-type]
        theirs.send(b"data")
        if callback == "eof_received":
            theirs.shutdown(socket.SHUT_WR)
        elif callback == "connection_lost":
            theirs.close()

    with warnings.catch_warnings(action="ignore"):
        leaves_the_loop(arrange)
        gc.collect()


@case
def exit_from_connection_made() -> None:
    exit_from_protocol("connection_made")


@case
def exit_from_data_received() -> None:
    exit_from_protocol("data_received")


@case
def exit_from_eof_received() -> None:
    exit_from_protocol("eof_received")


@case
def exit_from_connection_lost() -> None:
    exit_from_protocol("connection_lost")


@case
def exit_from_pause_writing() -> None:
    exit_from_protocol("pause_writing")


@case
def exit_from_protocol_factory() -> None:
    def arrange(loop: asyncio.AbstractEventLoop, leave: Callable[[], None]) -> None:
        server = loop.run_until_complete(loop.create_server(leave, "127.0.0.1", 0))  # type: ignore[arg-type]
        loop.client = Client(server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]
        loop.server = server  # type: ignore[attr-defined]

    leaves_the_loop(arrange)


@case
def uncaught_system_exit_is_the_exit_code() -> None:
    pid = os.fork()
    if pid == 0:
        loop = new_event_loop()
        loop.call_soon(sys.exit, 7)
        try:
            loop.run_forever()
        except SystemExit as exc:
            os._exit(exc.code)  # type: ignore[arg-type]
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


if __name__ == "__main__":
    main()
