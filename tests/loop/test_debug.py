"""Debug mode: slow callbacks, wrong threads, source tracebacks (a private attribute of asyncio)."""

import asyncio
import logging
import sys
import threading
import time

import pytest


@pytest.fixture
def debug_loop(loop):
    loop.set_debug(True)
    return loop


def slow():
    time.sleep(0.03)


def reports(log):
    """What was said of `slow()`: on a busy machine others may take their time as well."""
    return [message for message in log.messages if "slow" in message]


def test_flag(loop):
    loop.set_debug(True)
    assert loop.get_debug() is True
    loop.set_debug(False)
    assert loop.get_debug() is False


def test_environment_turns_it_on(run_script):
    script = "loop = new_event_loop(); print(loop.get_debug()); loop.close()"
    assert run_script(script, PYTHONASYNCIODEBUG="1").stdout == "True\n"
    assert run_script(script, PYTHONASYNCIODEBUG="").stdout == "False\n"


def test_default_threshold(loop_factory):
    loop = loop_factory()
    assert loop.slow_callback_duration == 0.1
    loop.close()


def test_slow_callback_is_reported(debug_loop, iterate, asyncio_log):
    debug_loop.slow_callback_duration = 0.02
    debug_loop.call_soon(slow)
    iterate()
    (message,) = reports(asyncio_log)
    assert message.startswith("Executing <Handle ")
    assert "slow()" in message
    assert __file__ in message
    assert "created at" in message
    head, _, tail = message.rpartition(" took ")
    seconds, unit = tail.split()
    assert float(seconds) >= 0.02
    assert unit == "seconds"
    assert asyncio_log.records[0].levelno == logging.WARNING


def test_slow_timer_is_reported(debug_loop, asyncio_log):
    debug_loop.slow_callback_duration = 0.02
    debug_loop.call_later(0.001, slow)
    debug_loop.call_later(0.002, debug_loop.stop)
    debug_loop.run_forever()
    (message,) = reports(asyncio_log)
    assert message.startswith("Executing <TimerHandle ")


def test_slow_task_step_is_reported_with_the_task(debug_loop, asyncio_log):
    debug_loop.slow_callback_duration = 0.02

    async def sluggish():
        slow()

    debug_loop.run_until_complete(debug_loop.create_task(sluggish(), name="the slow one"))
    (message,) = reports(asyncio_log)
    assert message.startswith("Executing <Task ")
    assert "the slow one" in message


def test_slow_reader_is_reported(debug_loop, socket_pair, asyncio_log):
    debug_loop.slow_callback_duration = 0.02
    ours, theirs = socket_pair

    def on_slow_socket():
        slow()
        debug_loop.remove_reader(ours)
        debug_loop.stop()

    debug_loop.add_reader(ours, on_slow_socket)
    theirs.send(b"x")
    debug_loop.run_forever()
    (message,) = reports(asyncio_log)
    assert "on_slow_socket" in message


@pytest.mark.improves_on_asyncio
async def test_slow_protocol_is_reported_with_its_transport(debug_loop, socket_pair, asyncio_log):
    class Sluggish(asyncio.Protocol):
        def data_received(self, data):
            slow()
            received.set_result(data)

    debug_loop.slow_callback_duration = 0.02
    received = debug_loop.create_future()
    ours, theirs = socket_pair
    ours.setblocking(False)
    transport, _ = await debug_loop.connect_accepted_socket(Sluggish, ours)
    theirs.send(b"x")
    await received
    await asyncio.sleep(0)
    assert any(
        message.startswith(f"Executing {transport!r} took ") for message in asyncio_log.messages
    )
    transport.close()
    await asyncio.sleep(0)


def test_slow_callback_that_raises_is_not_hidden(debug_loop, iterate, asyncio_log, unhandled):
    debug_loop.slow_callback_duration = 0.02

    def fail_slowly():
        slow()
        raise ValueError

    debug_loop.call_soon(fail_slowly)
    iterate()
    assert len(reports(asyncio_log)) == 1
    assert len(unhandled) == 1


def test_fast_callbacks_and_normal_mode_are_silent(loop, iterate, asyncio_log):
    loop.set_debug(True)
    loop.slow_callback_duration = 5
    loop.call_soon(slow)
    iterate()
    loop.set_debug(False)
    loop.slow_callback_duration = 0.02
    loop.call_soon(slow)
    iterate()
    assert asyncio_log.messages == []


def test_debug_switched_while_running(loop, asyncio_log):
    loop.slow_callback_duration = 0.02
    loop.set_debug(False)
    loop.call_soon(loop.set_debug, True)
    loop.call_soon(lambda: (loop.call_soon(slow), loop.call_soon(loop.stop)))
    loop.run_forever()
    assert any("slow()" in message for message in asyncio_log.messages)


@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at"])
def test_call_from_the_wrong_thread(debug_loop, method):
    when = () if method == "call_soon" else (0,)
    errors = []

    def call():
        try:
            getattr(debug_loop, method)(*when, int)
        except RuntimeError as error:
            errors.append(str(error))

    async def main():
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    debug_loop.run_until_complete(main())
    assert errors == [
        "Non-thread-safe operation invoked on an event loop other than the current one"
    ]


def test_call_from_another_thread_while_the_loop_rests_is_allowed(debug_loop, iterate):
    seen = []
    thread = threading.Thread(target=debug_loop.call_soon, args=(seen.append, 1))
    thread.start()
    thread.join()
    iterate()
    assert seen == [1]


def test_threadsafe_call_from_another_thread_is_allowed(debug_loop):
    seen = []

    def call():
        debug_loop.call_soon_threadsafe(seen.append, "called")
        debug_loop.call_soon_threadsafe(debug_loop.stop)

    thread = threading.Timer(0.01, call)
    thread.start()
    debug_loop.run_forever()
    thread.join()
    assert seen == ["called"]


def test_exception_context_has_the_source_traceback(debug_loop, iterate, unhandled):
    def schedule_here():
        return debug_loop.call_soon(lambda: 1 / 0)

    schedule_here()
    iterate()
    (context,) = unhandled
    assert "schedule_here" in [frame.name for frame in context["source_traceback"]]


def test_default_handler_logs_the_source_traceback(debug_loop, iterate, asyncio_log):
    def schedule_here():
        return debug_loop.call_soon(lambda: 1 / 0)

    schedule_here()
    iterate()
    (message,) = asyncio_log.messages
    assert "Object created at (most recent call last):" in message
    assert "schedule_here" in message


def test_handle_traceback_is_logged_for_errors_reported_inside_a_callback(
    debug_loop, iterate, asyncio_log
):
    def report():
        debug_loop.call_exception_handler({"message": "from inside"})

    def schedule_here():
        debug_loop.call_soon(report)

    schedule_here()
    iterate()
    (message,) = asyncio_log.messages
    assert message.startswith("from inside")
    assert "Handle created at (most recent call last):" in message
    assert "schedule_here" in message


def test_coroutine_origin_tracking_follows_debug(loop):
    depths = []

    def look_and_stop():
        depths.append(sys.get_coroutine_origin_tracking_depth())
        loop.stop()

    loop.call_soon(lambda: depths.append(sys.get_coroutine_origin_tracking_depth()))
    loop.call_soon(loop.set_debug, True)
    # set_debug() asks for the change as another thread would: it is there two iterations later.
    loop.call_soon(loop.call_soon, loop.call_soon, look_and_stop)
    loop.set_debug(False)
    loop.run_forever()
    assert depths[0] == 0
    assert depths[1] > 0
    assert sys.get_coroutine_origin_tracking_depth() == 0


def test_never_awaited_coroutine_tells_its_origin(debug_loop, recwarn):
    async def forgotten():
        """Never run."""

    async def main():
        forgotten()

    debug_loop.run_until_complete(main())
    messages = [str(warning.message) for warning in recwarn]
    assert any("forgotten" in text and "created at" in text for text in messages), messages


def test_run_with_debug(loop_factory):
    async def main():
        return asyncio.get_running_loop().get_debug()

    with asyncio.Runner(loop_factory=loop_factory, debug=True) as runner:
        assert runner.run(main()) is True


def test_pending_task_destroyed_in_debug_mode_tells_its_source(debug_loop, unhandled):
    async def main():
        await asyncio.get_running_loop().create_future()

    def create_here():
        return debug_loop.create_task(main())

    task = create_here()
    assert "create_here" in [frame.name for frame in task._source_traceback]
    assert task._source_traceback[-1].filename == __file__
    task.cancel()
    debug_loop.run_until_complete(asyncio.wait([task]))
    assert unhandled == []
