"""A signal wakes the loop at once, whenever it comes, and the wakeup descriptor is given back."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import threading

import pytest

from tests.support.signals import current_wakeup_fd

# Raises a signal without running any Python code after it, as `signal.raise_signal` would.
raise_natively = getattr(ctypes.CDLL(None), "raise")


@pytest.fixture
def foreign_fd():
    """A descriptor that somebody else lets signals be written to."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours.fileno(), theirs
    signal.set_wakeup_fd(-1)
    ours.close()
    theirs.close()


@contextlib.contextmanager
def woken_in_time(loop):
    """Fail if nothing but a timer ends the run."""
    late = []

    def give_up():
        late.append(True)
        loop.stop()

    guard = loop.call_later(20, give_up)
    yield
    guard.cancel()
    assert not late


def test_between_the_last_callback_and_the_poll(loop, on_signal):
    """Nothing but the signal itself ends the poll that follows."""
    on_signal(signal.SIGUSR1, lambda signum, frame: loop.stop())
    loop.call_soon(raise_natively, signal.SIGUSR1)
    with woken_in_time(loop):
        loop.run_forever()


def test_ctrl_c_between_the_last_callback_and_the_poll(loop):
    loop.call_soon(raise_natively, signal.SIGINT)
    with woken_in_time(loop), pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.run_until_complete(asyncio.sleep(0))


@pytest.mark.improves_on_asyncio
def test_each_signal_that_races_with_going_to_sleep_is_seen(loop, on_signal):
    """The next signal is sent the moment the last one was handled: on the way back to sleep."""
    rounds = 2000
    seen = threading.Semaphore(0)
    on_signal(signal.SIGUSR1, lambda signum, frame: seen.release())
    missed = []

    def send():
        for number in range(rounds):
            os.kill(os.getpid(), signal.SIGUSR1)
            if not seen.acquire(timeout=60):
                missed.append(number)
                break
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=send)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert not missed


@pytest.mark.improves_on_asyncio
def test_after_the_last_handler_was_removed_in_the_run(loop, on_signal):
    async def main():
        loop.add_signal_handler(signal.SIGUSR2, int)
        loop.remove_signal_handler(signal.SIGUSR2)
        assert current_wakeup_fd() != -1

    loop.run_until_complete(main())
    on_signal(signal.SIGUSR1, lambda signum, frame: loop.stop())
    loop.call_soon(raise_natively, signal.SIGUSR1)
    loop.run_forever()


def test_caught_by_another_thread(loop, on_signal):
    """The system may deliver a signal to any thread; Python's handler runs in the main one."""
    on_signal(signal.SIGUSR1, lambda signum, frame: loop.stop())

    def send():
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    thread = threading.Thread(target=send)
    loop.call_soon(thread.start)
    with woken_in_time(loop):
        loop.run_forever()
    thread.join()


def test_nothing_is_left_behind_by_runs(loop):
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
        assert current_wakeup_fd() == -1
    loop.close()
    assert current_wakeup_fd() == -1


def test_nothing_is_left_behind_by_an_interrupt(loop):
    loop.call_soon(signal.raise_signal, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert current_wakeup_fd() == -1


@pytest.mark.improves_on_asyncio
def test_put_back_too_late_by_somebody_else(loop):
    """Who replaces the descriptor in a run and restores it after may not harm a closed loop."""
    found = []
    loop.call_soon(lambda: found.append(signal.set_wakeup_fd(-1)))
    loop.run_until_complete(asyncio.sleep(0))
    signal.set_wakeup_fd(found[0])
    loop.close()
    assert current_wakeup_fd() == -1


def test_foreign_descriptor_stays(loop, foreign_fd, on_signal):
    fd, reader = foreign_fd
    on_signal(signal.SIGUSR1, lambda signum, frame: None)
    signal.set_wakeup_fd(fd)
    loop.call_soon(signal.raise_signal, signal.SIGUSR1)
    loop.run_until_complete(asyncio.sleep(0.001))
    assert current_wakeup_fd() == fd
    assert reader.recv(16) == bytes([signal.SIGUSR1])


def test_descriptor_set_in_the_run_stays(loop, foreign_fd, on_signal):
    fd, reader = foreign_fd
    on_signal(signal.SIGUSR1, lambda signum, frame: None)
    loop.call_soon(signal.set_wakeup_fd, fd)
    loop.run_until_complete(asyncio.sleep(0.001))
    signal.raise_signal(signal.SIGUSR1)
    assert current_wakeup_fd() == fd
    assert reader.recv(16) == bytes([signal.SIGUSR1])


def test_foreign_descriptor_that_is_closed_is_no_obstacle(loop):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    signal.set_wakeup_fd(ours.fileno())
    ours.close()
    theirs.close()
    assert loop.run_until_complete(asyncio.sleep(0, "ran")) == "ran"
    signal.set_wakeup_fd(-1)


def test_many_more_signals_than_the_pipe_takes(loop, on_signal, capfd):
    """A callback that blocks while thousands of signals come in causes no complaints."""
    count = 5000
    seen = []
    on_signal(signal.SIGUSR1, lambda signum, frame: seen.append(signum))

    def storm():
        for _ in range(count):
            signal.raise_signal(signal.SIGUSR1)

    loop.call_soon(storm)
    loop.run_until_complete(asyncio.sleep(0.001))
    assert len(seen) == count
    assert capfd.readouterr().err == ""


def test_loop_in_another_thread_leaves_signals_alone(loop_factory, on_signal):
    seen = threading.Event()
    on_signal(signal.SIGUSR1, lambda signum, frame: seen.set())
    fds = []

    def run():
        loop = loop_factory()
        loop.run_until_complete(asyncio.sleep(0.001))
        fds.append(current_wakeup_fd_or_none())
        loop.close()

    def current_wakeup_fd_or_none():
        try:
            return current_wakeup_fd()
        except ValueError:
            return None

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert fds == [None]
    os.kill(os.getpid(), signal.SIGUSR1)
    assert seen.wait(60)


def test_out_of_descriptors_does_not_keep_a_loop_from_running(run_script):
    run_script(
        """
        import resource
        loop = new_event_loop()
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
        opened = []
        try:
            while True:
                opened.append(os.dup(0))
        except OSError:
            pass
        assert loop.run_until_complete(asyncio.sleep(0.001, "ran")) == "ran"
        for fd in opened:
            os.close(fd)
        loop.close()
        """
    )
