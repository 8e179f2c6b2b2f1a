"""Many child processes at once: their pipes, exit codes and ends, on one loop and on several."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Iterator

import psutil
import pytest

from ..integration.support.loops import fds_return_to_start, new_event_loop, run_on_loop, wait_until

CHILDREN = 200
THREADS = 4
ECHO = 'read -r line; echo "$line"; echo "error of $line" >&2; exit "$line"'


def zombies() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(autouse=True)
def _no_zombie_and_no_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGCHLD)
    yield
    assert signal.getsignal(signal.SIGCHLD) is before is signal.SIG_DFL
    # A thread of asyncio's, on Pythons that use one for each child, may be about to end.
    wait_until(lambda: not zombies(), what="no zombies")


async def child(number: int) -> None:
    code = number % 256
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", ECHO, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate(b"%d\n" % code)
    assert (out, err) == (b"%d\n" % code, b"error of %d\n" % code)
    assert process.returncode == code == await process.wait()


async def children(count: int) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(child(number))


def test_two_hundred_at_once() -> None:
    run_on_loop(children(CHILDREN))


def test_two_hundred_that_live_at_the_same_time() -> None:
    async def main() -> None:
        processes = []
        for _ in range(CHILDREN):
            process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
            processes.append(process)
        assert len({process.pid for process in processes}) == CHILDREN
        for number, process in enumerate(processes):
            assert process.stdin and process.returncode is None
            process.stdin.write(b"to %d\n" % number)
        for number, process in enumerate(processes):
            assert process.stdout
            assert await process.stdout.readline() == b"to %d\n" % number
        # A third each: end of input, a signal, a kill.
        expected = []
        for number, process in enumerate(processes):
            if number % 3 == 0:
                assert process.stdin
                process.stdin.close()
                expected.append(0)
            elif number % 3 == 1:
                process.terminate()
                expected.append(-signal.SIGTERM)
            else:
                process.kill()
                expected.append(-signal.SIGKILL)
        codes = await asyncio.gather(*(process.wait() for process in processes))
        assert codes == expected

    run_on_loop(main())


def test_loops_in_several_threads() -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(THREADS, timeout=60)

    def target() -> None:
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                barrier.wait()
                for _ in range(3):
                    runner.run(asyncio.wait_for(children(20), 100))
        except BaseException as exc:
            errors.append(exc)

    with fds_return_to_start():
        threads = [threading.Thread(target=target) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads)


def test_large_pipes() -> None:
    """More than pipes hold, both ways at once."""
    data = os.urandom(4 << 20)

    async def one() -> None:
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(data)
        assert out == data
        assert process.returncode == 0

    async def main() -> None:
        await asyncio.gather(*(one() for _ in range(8)))

    run_on_loop(main())


def test_shells_streams_and_environment() -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_shell(
            'echo "$WORD"; echo to stderr >&2; exit 7',
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env={**os.environ, "WORD": "grüße"},
            cwd="/",
        )
        assert process.stdout
        assert [line async for line in process.stdout] == ["grüße\n".encode(), b"to stderr\n"]
        assert await process.wait() == 7
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/nowhere/none", stdout=PIPE)
        with pytest.raises(NotADirectoryError):
            await asyncio.create_subprocess_exec("true", cwd="/dev/null")

    run_on_loop(main())


def test_giving_up_on_a_child() -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec("sleep", "3600", stdout=PIPE)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await process.communicate()
        assert process.returncode is None
        process.kill()
        assert await process.wait() == -signal.SIGKILL
        assert process.stdout
        assert await process.stdout.read() == b""

    run_on_loop(main())
