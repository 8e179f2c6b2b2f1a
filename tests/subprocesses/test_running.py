"""Children while they run and when they end.

Transports are found by a private attribute of processes.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest

from tests.support.streams import MIB

from .support import python


class Recorder(asyncio.SubprocessProtocol):
    def __init__(self):
        self.calls = []
        self.output = bytearray()
        self.lost = False

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("connection_made")

    def pipe_data_received(self, fd, data):
        self.output += data

    def pipe_connection_lost(self, fd, exc):
        self.calls.append(("pipe_connection_lost", fd))

    def process_exited(self):
        self.calls.append("process_exited")

    def connection_lost(self, exc):
        self.calls.append("connection_lost")
        self.lost = True


async def test_protocol(loop, eventually):
    transport, protocol = await loop.subprocess_exec(Recorder, *python("print(input())"))
    assert transport.get_pid() > 0
    assert transport.get_returncode() is None
    assert [transport.get_pipe_transport(fd) is not None for fd in range(4)] == [
        True,
        True,
        True,
        False,
    ]
    transport.get_pipe_transport(0).write(b"line\n")
    await eventually(lambda: protocol.lost)
    assert protocol.output == b"line\n"
    assert transport.get_returncode() == 0
    assert protocol.calls[0] == "connection_made"
    assert protocol.calls[-1] == "connection_lost"
    assert sorted(call for call in protocol.calls if isinstance(call, tuple)) == [
        ("pipe_connection_lost", fd) for fd in range(3)
    ]
    assert protocol.calls.count("process_exited") == 1
    transport.close()


async def test_much_both_ways(loop):
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    data = os.urandom(4 * MIB)
    output, _ = await process.communicate(data)
    assert output == data
    assert process.returncode == 0


async def test_child_that_does_not_read(loop):
    """The rest of the input is dropped, and that is no error."""
    process = await asyncio.create_subprocess_exec("true", stdin=-1, stdout=-1)
    assert await process.communicate(b"x" * 4 * MIB) == (b"", None)
    assert process.returncode == 0


async def test_input_closed_early(loop):
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    process.stdin.close()
    assert await process.stdout.read() == b""
    assert await process.wait() == 0


async def test_output_closed_early(loop):
    """The child gets SIGPIPE or an error, as it would in a shell."""
    process = await asyncio.create_subprocess_exec("yes", stdout=-1)
    assert await process.stdout.readexactly(4) == b"y\ny\n"
    process._transport.get_pipe_transport(1).close()
    assert await process.wait() != 0


async def test_output_of_a_grandchild(loop):
    """A pipe ends when its last writer has gone, not with the child."""
    process = await asyncio.create_subprocess_shell("(sleep 0.05; echo late) &", stdout=-1)
    output, _ = await process.communicate()
    assert output == b"late\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("kill", -signal.SIGKILL),
        ("terminate", -signal.SIGTERM),
        (("send_signal", signal.SIGUSR1), -signal.SIGUSR1),
    ],
)
async def test_signals(loop, eventually, method, expected):
    process = await asyncio.create_subprocess_exec("cat", stdin=-1)
    name, *arguments = [method] if isinstance(method, str) else method
    getattr(process, name)(*arguments)
    assert await process.wait() == expected
    process.stdin.close()

    def is_refused():
        try:
            getattr(process, name)(*arguments)
        except ProcessLookupError:
            return True
        return False

    # Newer Pythons do not wait for the end of the pipes before wait() returns.
    await eventually(is_refused)


async def test_signals_race_with_the_end(loop):
    """A late signal raises or has no effect; the status of the child is not lost."""
    for number in range(20):
        process = await asyncio.create_subprocess_exec("true")
        if number % 2:
            await asyncio.sleep(0.0002 * number)
        try:
            process.kill()
        except ProcessLookupError:
            pass
        assert await process.wait() in (0, -signal.SIGKILL)


def exited_unseen(transport):
    """Wait, without the loop, until a child has ended; leave its status where it is."""
    try:
        os.waitid(os.P_PID, transport.get_pid(), os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        pass  # a thread of asyncio's on Python 3.11 was faster


@pytest.mark.parametrize("status", [0, 3, 255, -signal.SIGUSR1])
@pytest.mark.parametrize("method", ["kill", "terminate", "close", "poll"])
async def test_ended_before_the_loop_saw_it(loop, eventually, method, status):
    """Whatever looks whether a child still runs leaves its status to the loop. (A warning that it
    was lost would not be a clean end.)"""
    end = f"os._exit({status})" if status >= 0 else f"os.kill(os.getpid(), {-status})"
    transport, protocol = await loop.subprocess_exec(
        Recorder, *python(f"import os; {end}"), stdin=None, stdout=None, stderr=None
    )
    exited_unseen(transport)
    owner = transport.get_extra_info("subprocess") if method == "poll" else transport
    getattr(owner, method)()
    await eventually(lambda: protocol.lost)
    assert transport.get_returncode() == status
    assert protocol.calls.count("process_exited") == 1
    transport.close()


async def test_kill_inside_connection_made(loop, eventually):
    """The first moment at which a program has the transport."""

    class Killer(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            exited_unseen(transport)
            transport.kill()

    command = python("import os; os._exit(7)")
    transport, protocol = await loop.subprocess_exec(
        Killer, *command, stdin=None, stdout=None, stderr=None
    )
    await eventually(lambda: protocol.lost)
    assert transport.get_returncode() == 7
    transport.close()


async def test_many_at_once(loop):
    async def one(number):
        process = await asyncio.create_subprocess_shell(f"cat; exit {number}", stdin=-1, stdout=-1)
        output, _ = await process.communicate(b"%d" % number)
        return output, process.returncode

    results = await asyncio.gather(*(one(number) for number in range(25)))
    assert results == [(b"%d" % number, number) for number in range(25)]


async def test_several_wait_for_one(loop):
    process = await asyncio.create_subprocess_exec("cat", stdin=-1)
    waits = [loop.create_task(process.wait()) for _ in range(5)]
    await asyncio.sleep(0)
    process.stdin.close()
    assert await asyncio.gather(*waits) == [0] * 5
    assert await process.wait() == 0


async def test_closing_the_transport_kills(loop, eventually):
    transport, protocol = await loop.subprocess_exec(Recorder, "cat")
    transport.close()
    transport.close()
    assert transport.is_closing()
    await eventually(lambda: protocol.lost)
    assert transport.get_returncode() == -signal.SIGKILL


async def test_wait_with_a_timeout(loop):
    process = await asyncio.create_subprocess_exec("cat", stdin=-1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.005)
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    process.stdin.close()


async def test_handler_of_the_program_for_sigchld(loop, eventually):
    """The loop takes no signal away: the program's own handler sees every child's end."""
    seen = []
    old = signal.signal(signal.SIGCHLD, lambda signum, frame: seen.append(signum))
    try:
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        await eventually(lambda: seen)
    finally:
        signal.signal(signal.SIGCHLD, old)


async def test_sigchld_by_add_signal_handler(loop, eventually):
    seen = []
    loop.add_signal_handler(signal.SIGCHLD, seen.append, True)
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
    await eventually(lambda: seen)
    loop.remove_signal_handler(signal.SIGCHLD)


async def test_children_of_subprocess_module_are_left_alone(loop):
    """Nobody else's child is waited for."""
    other = subprocess.Popen(["true"])
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
    assert other.wait() == 0
    assert (await asyncio.to_thread(subprocess.run, ["false"])).returncode == 1


def test_loops_in_several_threads(loop_factory):
    """Also when the main thread runs no loop at all."""
    results, errors = [], []

    def run(number):
        async def main():
            for index in range(3):
                process = await asyncio.create_subprocess_shell(
                    f"cat; exit {number + index}", stdin=-1, stdout=-1
                )
                output, _ = await process.communicate(b"%d" % number)
                results.append((number, index, output, process.returncode))

        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(main())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()
    assert errors == []
    assert sorted(results) == [
        (number, index, b"%d" % number, number + index) for number in range(4) for index in range(3)
    ]


def test_loops_one_after_the_other(loop_factory):
    for _ in range(5):
        with asyncio.Runner(loop_factory=loop_factory) as runner:

            async def main():
                process = await asyncio.create_subprocess_exec("true")
                return await process.wait()

            assert runner.run(main()) == 0


def test_child_that_outlives_its_loop(loop_factory):
    """Closing the loop reports the child, kills it and leaves nothing open."""
    loop = loop_factory()
    transport, _ = loop.run_until_complete(
        loop.subprocess_exec(asyncio.SubprocessProtocol, "cat", stdout=None, stderr=None)
    )
    pid = transport.get_pid()
    transport.close()
    deadline = time.monotonic() + 60
    while transport.get_returncode() is None:
        assert time.monotonic() < deadline
        loop.run_until_complete(asyncio.sleep(0.001))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(
    sys.version_info < (3, 12) or not hasattr(os, "pidfd_open"),
    reason="this Python's asyncio waits for children in threads",
)
async def test_uses_a_pidfd_where_the_standard_library_does(loop):
    """No thread waits for a child if the system can report its end."""
    threads = set(threading.enumerate())
    process = await asyncio.create_subprocess_exec("cat", stdin=-1)
    assert set(threading.enumerate()) <= threads
    process.stdin.close()
    assert await process.wait() == 0


def test_a_thread_waits_where_there_is_no_pidfd(run_script):
    """As on kernels and systems without; children of the main thread's loop and of another's."""
    run_script(
        """
        import os, threading
        os.__dict__.pop("pidfd_open", None)

        async def child(status, seen):
            command = f"cat; exit {status}"
            process = await asyncio.create_subprocess_shell(command, stdin=-1)
            seen.update(thread.name for thread in threading.enumerate())
            process.stdin.close()
            return await process.wait()

        async def main(first):
            seen = set()
            numbers = range(first, first + 10)
            statuses = await asyncio.gather(*(child(number, seen) for number in numbers))
            assert statuses == list(numbers), statuses
            assert sum("waitpid" in name for name in seen) >= 10, seen

        def run(first):
            loop = new_event_loop()
            loop.run_until_complete(main(first))
            loop.close()

        run(0)
        other = threading.Thread(target=run, args=[100])
        other.start()
        run(50)
        other.join()
        """
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there a thread takes the status at once")
async def test_status_taken_by_somebody_else(loop, asyncio_log):
    """asyncio's answer is 255, with a line in the log."""
    process = await asyncio.create_subprocess_exec("sleep", "60")
    process.kill()
    os.waitpid(process.pid, 0)
    assert await process.wait() == 255
    assert any("exit status already read" in message for message in asyncio_log.messages)


no_watchers = pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="asyncio has no child watchers since Python 3.14"
)


@no_watchers
async def test_the_child_watcher_is_the_policys(loop, monkeypatch):
    asked = []
    policy = asyncio.get_event_loop_policy()
    get_child_watcher = policy.get_child_watcher

    def counted():
        asked.append(True)
        return get_child_watcher()

    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
    monkeypatch.setattr(policy, "get_child_watcher", counted)
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
    assert asked == [True]


@no_watchers
async def test_warnings_of_the_process_are_left_alone(loop, monkeypatch):
    """asyncio suppresses its own warning of child watchers, and with it those of other threads."""
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0

    def refuse(*args):
        raise AssertionError("the filters are changed for all threads")

    with monkeypatch.context() as patched:
        patched.setattr(warnings, "simplefilter", refuse)
        # A name without a path is looked up by os.get_exec_path(), which has a warning of its own.
        process = await asyncio.create_subprocess_exec(*python(""))
    assert await process.wait() == 0


async def test_a_popen_of_the_program_is_used(loop, monkeypatch):
    """Libraries such as gevent put a class of their own in the place of subprocess.Popen."""

    class Popen(subprocess.Popen):
        pass

    monkeypatch.setattr(subprocess, "Popen", Popen)
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
    assert type(process._transport.get_extra_info("subprocess")) is Popen
