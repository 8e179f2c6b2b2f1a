"""`call_soon_threadsafe()`: nothing is lost or reordered, and a waiting loop wakes.

Since Python 3.14 the handle is of a private class of asyncio.
"""

import asyncio
import threading
import time

import pytest

THREADS = 4
CALLS_PER_THREAD = 25_000


def test_shares_one_queue_with_call_soon(loop, iterate):
    seen = []
    for number in range(0, 100, 2):
        loop.call_soon(seen.append, number)
        loop.call_soon_threadsafe(seen.append, number + 1)
    iterate()
    assert seen == list(range(100))


def test_shares_one_queue_with_call_soon_while_running(loop):
    seen = []

    def fill():
        for number in range(0, 100, 2):
            loop.call_soon_threadsafe(seen.append, number)
            loop.call_soon(seen.append, number + 1)
        loop.call_soon_threadsafe(loop.stop)

    loop.call_soon(fill)
    loop.run_forever()
    assert seen == list(range(100))


def test_no_call_from_many_threads_is_lost_or_reordered(loop):
    seen = [[] for _ in range(THREADS)]
    finished = 0

    def thread_done():
        nonlocal finished
        finished += 1
        if finished == THREADS:
            loop.stop()

    def produce(index):
        for number in range(CALLS_PER_THREAD):
            loop.call_soon_threadsafe(seen[index].append, number)
        loop.call_soon_threadsafe(thread_done)

    threads = [threading.Thread(target=produce, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    loop.run_forever()
    for thread in threads:
        thread.join()
    assert seen == [list(range(CALLS_PER_THREAD))] * THREADS


def test_every_wake_of_a_sleeping_loop_is_seen(loop):
    """Ping-pong with a thread: one lost wake-up would hang it."""
    rounds = 5_000
    answered = threading.Semaphore(0)

    def ping():
        for _ in range(rounds):
            loop.call_soon_threadsafe(answered.release)
            assert answered.acquire(timeout=60)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=ping)
    thread.start()
    loop.run_forever()
    thread.join()


def test_wakes_a_loop_that_sleeps_on_a_far_timer(loop):
    timer = loop.call_later(3600, loop.stop)
    woken = []

    def wake():
        for _ in range(20):
            time.sleep(0.005)
            arrived = threading.Event()
            loop.call_soon_threadsafe(arrived.set)
            woken.append(arrived.wait(60))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=wake)
    thread.start()
    loop.run_forever()
    thread.join()
    timer.cancel()
    assert woken == [True] * 20


def test_calls_before_the_loop_runs_wait_for_it(loop, iterate):
    seen = []
    threads = [
        threading.Thread(target=loop.call_soon_threadsafe, args=(seen.append, number))
        for number in range(10)
    ]
    for thread in threads:
        thread.start()
        thread.join()
    assert seen == []
    iterate()
    assert seen == list(range(10))


def test_cancel_of_a_threadsafe_handle(loop, iterate):
    seen = []
    handle = loop.call_soon_threadsafe(seen.append, 1)
    handle.cancel()
    iterate()
    assert seen == []


def test_stop_from_another_thread(loop):
    thread = threading.Timer(0.02, loop.call_soon_threadsafe, (loop.stop,))
    thread.start()
    loop.run_forever()
    thread.join()
    assert not loop.is_running()


def test_closed_loop_refuses_calls_from_other_threads(loop):
    loop.close()
    errors = []

    def call():
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert errors == ["Event loop is closed"]


def test_threads_racing_with_close(loop_factory):
    """A call either gets in or is refused; the process lives on and no fd is written to wrongly."""
    for _ in range(20):
        loop = loop_factory()
        outcomes = []
        go = threading.Event()

        def hammer(loop=loop, go=go, outcomes=outcomes):
            go.wait()
            try:
                while True:
                    loop.call_soon_threadsafe(int)
            except RuntimeError as error:
                outcomes.append(str(error))

        threads = [threading.Thread(target=hammer) for _ in range(3)]
        for thread in threads:
            thread.start()
        go.set()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert outcomes == ["Event loop is closed"] * 3


def test_run_coroutine_threadsafe(loop):
    async def double(number):
        await asyncio.sleep(0.001)
        if number < 0:
            raise ValueError(number)
        return number * 2

    results = []

    def ask():
        try:
            for number in range(50):
                future = asyncio.run_coroutine_threadsafe(double(number), loop)
                results.append(future.result(timeout=60))
            with pytest.raises(ValueError):
                asyncio.run_coroutine_threadsafe(double(-1), loop).result(timeout=60)
        finally:
            loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=ask)
    thread.start()
    loop.run_forever()
    thread.join()
    assert results == [number * 2 for number in range(50)]


def test_threadsafe_calls_from_callbacks_do_not_starve_timers(loop):
    """A stream of threadsafe calls leaves room for timers."""
    stop = threading.Event()

    def flood():
        while not stop.is_set():
            loop.call_soon_threadsafe(int)

    thread = threading.Thread(target=flood)
    thread.start()
    fired = []
    for delay in (0.01, 0.02, 0.03):
        loop.call_later(delay, fired.append, delay)
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    stop.set()
    thread.join()
    assert fired == [0.01, 0.02, 0.03]


@pytest.mark.skipif(
    not hasattr(asyncio.events, "_ThreadSafeHandle"),
    reason="only since Python 3.14 does a handle of call_soon_threadsafe() wait for its callback",
)
@pytest.mark.parametrize("method", ["cancel", "cancelled"])
@pytest.mark.parametrize("failing", [False, True])
def test_handle_waits_for_a_callback_that_runs(loop, unhandled, method, failing):
    running, checked, order = threading.Event(), threading.Event(), []

    def callback():
        running.set()
        # The other thread is about to wait; if it did not, it would be done long before.
        checked.wait(0.2)
        order.append("callback")
        if failing:
            raise ArithmeticError

    def elsewhere():
        try:
            handle = loop.call_soon_threadsafe(callback)
            assert isinstance(handle, asyncio.events._ThreadSafeHandle)
            assert running.wait(60)
            answer = getattr(handle, method)()
            order.append((method, answer))
            checked.set()
            order.append(handle.cancelled())
        finally:
            loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    loop.run_forever()
    thread.join()
    answer = None if method == "cancel" else False
    assert order == ["callback", (method, answer), method == "cancel"]
    assert len(unhandled) == failing


def test_handle_is_cancelled_by_its_own_callback(loop, unhandled):
    """A call in the thread of the loop does not wait for itself."""
    handles, seen = [], []

    def callback():
        handles[0].cancel()
        seen.append(handles[0].cancelled())
        loop.stop()

    handles.append(loop.call_soon_threadsafe(callback))
    loop.run_forever()
    assert seen == [True]
    assert "cancelled" in repr(handles[0])


def test_handle_is_cancelled_in_another_thread_before_it_runs(loop, iterate):
    seen = []
    handle = loop.call_soon_threadsafe(seen.append, "run")
    thread = threading.Thread(target=handle.cancel)
    thread.start()
    thread.join()
    iterate()
    assert seen == []
    assert handle.cancelled()
