"""add_signal_handler and the process-wide signal state the loop leaves behind."""

import asyncio
import contextvars
import signal
import socket
import threading

import pytest

from tests.support.signals import current_wakeup_fd, kill_self


@pytest.fixture(autouse=True)
def signal_state():
    """Handlers and wake-up fd as they were."""
    saved = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in saved.items():
        signal.signal(number, handler)
    signal.set_wakeup_fd(-1)


def test_handler_runs_on_the_loop(loop):
    seen = []

    def handler(*args):
        seen.append((args, asyncio.get_running_loop() is loop))
        loop.stop()

    loop.add_signal_handler(signal.SIGUSR1, handler, 1, 2)
    loop.call_soon(kill_self)
    loop.run_forever()
    assert seen == [((1, 2), True)]


def test_signal_from_outside_wakes_a_sleeping_loop(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: (seen.append("signal"), loop.stop()))
    timer = threading.Timer(0.05, kill_self)
    timer.start()
    loop.run_forever()
    timer.join()
    assert seen == ["signal"]


def test_each_of_many_signals_arrives(loop, run_until):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    loop.add_signal_handler(signal.SIGUSR2, seen.append, 2)
    for _ in range(20):
        kill_self(signal.SIGUSR1)
        kill_self(signal.SIGUSR2)
    run_until(lambda: len(seen) == 40)
    assert sorted(seen) == [1] * 20 + [2] * 20


def test_signal_before_the_loop_runs_is_not_lost(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: (seen.append("signal"), loop.stop()))
    kill_self()
    loop.run_forever()
    assert seen == ["signal"]


def test_replacing_a_handler(loop, run_until):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "old")
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "new")
    kill_self()
    run_until(lambda: seen)
    assert seen == ["new"]


def test_removing(loop):
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    loop.add_signal_handler(signal.SIGUSR1, int)
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_removing_sigint_restores_keyboard_interrupt(loop):
    loop.add_signal_handler(signal.SIGINT, int)
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    loop.remove_signal_handler(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_exception_of_a_handler_is_reported(loop, run_until, unhandled):
    def handler():
        raise ZeroDivisionError

    loop.add_signal_handler(signal.SIGUSR1, handler)
    kill_self()
    run_until(lambda: unhandled)
    assert isinstance(unhandled[0]["exception"], ZeroDivisionError)


@pytest.mark.parametrize("number", [0, -1, 1000])
def test_invalid_number(loop, number):
    with pytest.raises(ValueError, match="invalid signal number"):
        loop.add_signal_handler(number, int)
    with pytest.raises(ValueError, match="invalid signal number"):
        loop.remove_signal_handler(number)


@pytest.mark.parametrize("number", ["SIGUSR1", None, 1.5])
def test_wrong_type(loop, number):
    with pytest.raises(TypeError, match="sig must be an int, not"):
        loop.add_signal_handler(number, int)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_uncatchable(loop, number):
    with pytest.raises(RuntimeError, match="cannot be caught"):
        loop.add_signal_handler(number, int)
    assert current_wakeup_fd() == -1


def test_coroutine_function_is_refused(loop):
    async def handler():
        """Never run."""

    with pytest.raises(TypeError, match="coroutines cannot be used with add_signal_handler"):
        loop.add_signal_handler(signal.SIGUSR1, handler)


def test_only_in_the_main_thread(loop):
    errors = []

    def add():
        try:
            loop.add_signal_handler(signal.SIGUSR1, int)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=add)
    thread.start()
    thread.join()
    (message,) = errors
    assert "main thread" in message


def test_closed_loop(loop):
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_signal_handler(signal.SIGUSR1, int)


def test_close_removes_handlers_and_wakeup_fd(loop):
    loop.add_signal_handler(signal.SIGUSR1, int)
    loop.add_signal_handler(signal.SIGUSR2, int)
    assert current_wakeup_fd() != -1
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
    assert current_wakeup_fd() == -1


def test_removing_the_last_handler_gives_the_wakeup_fd_back(loop):
    loop.add_signal_handler(signal.SIGUSR1, int)
    loop.add_signal_handler(signal.SIGUSR2, int)
    loop.remove_signal_handler(signal.SIGUSR1)
    assert current_wakeup_fd() != -1
    loop.remove_signal_handler(signal.SIGUSR2)
    assert current_wakeup_fd() == -1


def test_running_leaves_a_foreign_wakeup_fd_in_place(loop):
    """Someone else's set_wakeup_fd survives runs of a loop without signal handlers."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    signal.set_wakeup_fd(ours.fileno())
    try:
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert current_wakeup_fd() == ours.fileno()
    finally:
        signal.set_wakeup_fd(-1)
        ours.close()
        theirs.close()


def test_running_leaves_no_wakeup_fd_behind(loop):
    loop.run_until_complete(asyncio.sleep(0.001))
    assert current_wakeup_fd() == -1


def test_python_handlers_still_work_beside_the_loop(loop):
    seen = []

    def handler(signum, frame):
        seen.append(signum)
        loop.call_soon_threadsafe(loop.stop)

    signal.signal(signal.SIGUSR2, handler)
    timer = threading.Timer(0.05, kill_self, (signal.SIGUSR2,))
    timer.start()
    loop.run_forever()
    timer.join()
    assert seen == [signal.SIGUSR2]


def test_child_signal_can_be_handled(loop, run_until):
    """uvloop refuses SIGCHLD; asyncio does not."""
    previous = signal.getsignal(signal.SIGCHLD)
    seen = []
    try:
        loop.add_signal_handler(signal.SIGCHLD, seen.append, 1)
        kill_self(signal.SIGCHLD)
        run_until(lambda: seen)
        loop.remove_signal_handler(signal.SIGCHLD)
    finally:
        signal.signal(signal.SIGCHLD, previous)
    assert seen == [1]


def test_second_loop_may_take_over_the_signals(loop, loop_factory):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "first")
    other = loop_factory()
    other.add_signal_handler(signal.SIGUSR1, lambda: (seen.append("second"), other.stop()))
    kill_self()
    other.run_forever()
    other.close()
    assert seen == ["second"]


def test_handler_runs_in_the_context_it_was_added_in(loop):
    var = contextvars.ContextVar("var", default="unset")
    var.set("at add")
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: (seen.append(var.get()), loop.stop()))
    var.set("later")
    kill_self()
    loop.run_forever()
    assert seen == ["at add"]
