"""`loop.busy_poll`: polling without sleeping for a time."""

import asyncio
import os
import re
import signal
import socket
import threading
import time

import pytest

pytest.importorskip("hybridloop._core", reason="the extension is not built")

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

needs_two_processors = pytest.mark.skipif(
    PROCESSORS == 1, reason="the loop does not poll busily on one processor"
)


def test_it_is_off_at_first_and_can_be_set(loop):
    assert loop.busy_poll == 0
    loop.busy_poll = 0.25
    assert loop.busy_poll == 0.25
    loop.busy_poll = 0
    assert loop.busy_poll == 0


@pytest.mark.parametrize("value", [-0.001, float("nan"), float("inf"), 1e300])
def test_a_time_that_is_none_is_refused(loop, value):
    with pytest.raises(ValueError, match="busy_poll must be .* not " + re.escape(str(value))):
        loop.busy_poll = value
    with pytest.raises(TypeError):
        loop.busy_poll = "1"
    assert loop.busy_poll == 0


@pytest.fixture
def busy_loop(loop):
    loop.busy_poll = 60
    return loop


def test_io_timers_and_other_threads_end_it(busy_loop):
    async def main():
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            for _ in range(50):
                timer = threading.Timer(0.001, far.send, [b"x"])
                timer.start()
                assert await busy_loop.sock_recv(near, 10) == b"x"
                timer.join()
        begin = busy_loop.time()
        await asyncio.sleep(0.02)
        assert busy_loop.time() - begin >= 0.02
        assert await asyncio.to_thread(time.sleep, 0.01) is None
        assert await busy_loop.run_native("hl.crc32", b"123456789") == 0xCBF43926
        assert await busy_loop.getaddrinfo("127.0.0.1", 80)

    busy_loop.run_until_complete(asyncio.wait_for(main(), 30))


def test_a_signal_ends_it(busy_loop):
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append("handled"))
    # The program's own: nothing wakes the loop but the signal itself.
    near, far = socket.socketpair()
    near.setblocking(False)
    try:
        with near, far:
            busy_loop.busy_poll = 0.05
            signal.set_wakeup_fd(near.fileno())
            threading.Timer(
                0.01, signal.pthread_kill, [threading.get_ident(), signal.SIGUSR1]
            ).start()
            busy_loop.run_until_complete(asyncio.sleep(0.5))
            assert seen == ["handled"]
            signal.set_wakeup_fd(-1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_ends_it(busy_loop):
    threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT]).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        busy_loop.run_forever()
    assert time.monotonic() - begin < 30


@needs_two_processors
def test_other_threads_run_meanwhile_and_the_loop_does_not_sleep(busy_loop):
    async def main():
        done, count = threading.Event(), 0

        def work():
            nonlocal count
            while not done.is_set():
                count += 1

        worker = threading.Thread(target=work)
        worker.start()
        before = time.thread_time()
        await asyncio.sleep(0.2)
        used = time.thread_time() - before
        done.set()
        worker.join()
        return used, count

    used, count = busy_loop.run_until_complete(main())
    assert used > 0.01
    assert count > 100
