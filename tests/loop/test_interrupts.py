"""SystemExit, KeyboardInterrupt and Ctrl-C leave run_forever; the loop can be used afterwards."""

import asyncio
import signal
import time

import psutil
import pytest

INTERRUPTS = [SystemExit, KeyboardInterrupt]


@pytest.fixture(params=INTERRUPTS, ids=lambda kind: kind.__name__)
def interrupt(request):
    return request.param


def raiser(exception):
    def callback(*args):
        raise exception("stop here")

    return callback


def assert_usable(loop):
    assert not loop.is_running()
    assert loop.run_until_complete(asyncio.sleep(0.001, "fine")) == "fine"


@pytest.mark.parametrize("how", ["call_soon", "call_soon_threadsafe", "call_later"])
def test_from_a_callback(loop, interrupt, how):
    delay = (0.001,) if how == "call_later" else ()
    getattr(loop, how)(*delay, raiser(interrupt))
    with pytest.raises(interrupt, match="stop here"):
        loop.run_forever()
    assert_usable(loop)


def test_from_a_task(loop, interrupt):
    async def main():
        await asyncio.sleep(0)
        raise interrupt("stop here")

    with pytest.raises(interrupt, match="stop here"):
        loop.run_until_complete(main())
    assert_usable(loop)


def test_from_a_background_task(loop, interrupt):
    async def background():
        await asyncio.sleep(0.001)
        raise interrupt("stop here")

    task = loop.create_task(background())
    with pytest.raises(interrupt, match="stop here"):
        loop.run_forever()
    assert isinstance(task.exception(), interrupt)
    assert_usable(loop)


def test_from_a_reader(loop, interrupt, socket_pair):
    ours, theirs = socket_pair
    loop.add_reader(ours, raiser(interrupt))
    theirs.send(b"x")
    with pytest.raises(interrupt, match="stop here"):
        loop.run_forever()
    assert loop.remove_reader(ours)
    assert_usable(loop)


def test_from_the_exception_handler(loop, interrupt):
    loop.set_exception_handler(raiser(interrupt))
    loop.call_soon(raiser(ValueError))
    with pytest.raises(interrupt, match="stop here"):
        loop.run_forever()
    loop.set_exception_handler(None)
    assert_usable(loop)


def test_rest_of_the_batch_runs_next_time(loop, interrupt):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(raiser(interrupt))
    loop.call_soon(seen.append, 2)
    with pytest.raises(interrupt):
        loop.run_forever()
    assert seen == [1]
    loop.stop()
    loop.run_forever()
    assert seen == [1, 2]


@pytest.mark.parametrize("kind", [GeneratorExit, BaseException, BaseExceptionGroup])
def test_other_base_exceptions_are_reported(loop, iterate, unhandled, kind):
    error = kind("group", [KeyboardInterrupt()]) if kind is BaseExceptionGroup else kind("odd")

    def callback():
        raise error

    loop.call_soon(callback)
    iterate()
    assert [context["exception"] for context in unhandled] == [error]


def wait_for_line(process, expected):
    assert process.stdout.readline().strip() == expected


def wait_until_asleep(process):
    """Wait until the process sits in a blocking call, which for a loop is its poll."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING:
            return
        time.sleep(0.001)
    raise AssertionError("the process never slept")


def interrupt_and_wait(process, *, asleep=True, limit=60):
    if asleep:
        wait_until_asleep(process)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert time.monotonic() - start < limit
    return output, errors


def test_ctrl_c_while_blocked_in_poll(start_script):
    process = start_script(
        """
        loop = new_event_loop()
        loop.call_later(0.05, print, "ready")
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("interrupted", loop.is_running())
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        print("closed")
        """
    )
    wait_for_line(process, "ready")
    output, errors = interrupt_and_wait(process)
    assert output.split("\n") == ["interrupted False", "closed", ""], errors
    assert process.returncode == 0


def test_ctrl_c_while_a_callback_runs(start_script):
    process = start_script(
        """
        def spin():
            print("ready")
            while True:
                pass

        loop = new_event_loop()
        loop.call_soon(spin)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("interrupted")
        loop.close()
        """
    )
    wait_for_line(process, "ready")
    assert interrupt_and_wait(process, asleep=False)[0] == "interrupted\n"


def test_ctrl_c_while_callbacks_keep_the_loop_busy(start_script):
    process = start_script(
        """
        def again():
            loop.call_soon(again)

        loop = new_event_loop()
        loop.call_soon(again)
        loop.call_later(0.02, print, "ready")
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("interrupted")
        loop.close()
        """
    )
    wait_for_line(process, "ready")
    assert interrupt_and_wait(process, asleep=False)[0] == "interrupted\n"


def test_uncaught_ctrl_c_ends_the_process_with_a_traceback(start_script):
    process = start_script(
        """
        loop = new_event_loop()
        loop.call_soon(print, "ready")
        loop.run_forever()
        """
    )
    wait_for_line(process, "ready")
    _, errors = interrupt_and_wait(process)
    assert "KeyboardInterrupt" in errors
    assert process.returncode == -signal.SIGINT


def test_runner_cancels_the_main_task_on_ctrl_c(start_script):
    process = start_script(
        """
        async def main():
            try:
                print("ready")
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                print("cancelled")
                await asyncio.sleep(0.01)
                print("cleaned up")
                raise

        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    wait_for_line(process, "ready")
    output, errors = interrupt_and_wait(process)
    assert output.split() == ["cancelled", "cleaned", "up", "interrupted"], errors


def test_second_ctrl_c_ends_a_main_task_that_will_not_stop(start_script):
    process = start_script(
        """
        async def main():
            print("ready")
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    print("ignored")

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            try:
                runner.run(main())
            except KeyboardInterrupt:
                print("interrupted")
            os._exit(0)
        """
    )
    wait_for_line(process, "ready")
    process.send_signal(signal.SIGINT)
    wait_for_line(process, "ignored")
    assert interrupt_and_wait(process)[0] == "interrupted\n"


def test_ctrl_c_in_a_main_task_that_returns_anyway(start_script):
    process = start_script(
        """
        async def main():
            print("ready")
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                return "result"

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            print(runner.run(main()))
        """
    )
    wait_for_line(process, "ready")
    assert interrupt_and_wait(process)[0] == "result\n"


def test_python_signal_handler_runs_while_the_loop_sleeps(start_script):
    process = start_script(
        """
        loop = new_event_loop()

        def handler(signum, frame):
            loop.call_soon_threadsafe(loop.stop)

        signal.signal(signal.SIGINT, handler)
        loop.call_soon(print, "ready")
        loop.run_forever()
        print("stopped")
        loop.close()
        """
    )
    wait_for_line(process, "ready")
    assert interrupt_and_wait(process)[0] == "stopped\n"


def test_exception_of_a_python_signal_handler_leaves_run_forever(start_script):
    process = start_script(
        """
        class Custom(Exception):
            pass

        def handler(signum, frame):
            raise Custom

        signal.signal(signal.SIGINT, handler)
        loop = new_event_loop()
        loop.call_later(0.05, print, "ready")
        try:
            loop.run_forever()
        except Custom:
            print("custom", loop.is_running())
        loop.close()
        """
    )
    wait_for_line(process, "ready")
    assert interrupt_and_wait(process)[0] == "custom False\n"


def test_each_of_many_interrupts_ends_the_run(start_script):
    process = start_script(
        """
        loop = new_event_loop()
        for number in range(40):
            try:
                loop.call_soon(print, number)
                loop.run_until_complete(asyncio.sleep(3600))
            except KeyboardInterrupt:
                pass
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        os._exit(0)
        """
    )
    for number in range(40):
        wait_for_line(process, str(number))
        wait_until_asleep(process)
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
