"""Replaced parts, also private ones, are used: `time()`, `_selector.select()`, `Handle._run()`."""

import asyncio
import threading
from unittest import mock

import pytest

FAR = 3600


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def iterate(loop, count=3):
    """Run some iterations, none of which waits."""
    for _ in range(count):
        loop.call_soon(loop.stop)
        loop.run_forever()


def on_instance(loop, clock):
    return mock.patch.object(loop, "time", clock)


def on_class(loop, clock):
    return mock.patch.object(type(loop), "time", lambda self: clock())


@pytest.fixture(params=[on_instance, on_class])
def patched(request):
    return request.param


def test_timers_follow_a_clock_that_is_set(loop, patched):
    clock, called = Clock(), []
    with patched(loop, clock):
        timer = loop.call_later(FAR, called.append, "later")
        assert timer.when() == clock.now + FAR
        loop.call_at(clock.now + 10, called.append, "at")
        iterate(loop)
        assert called == []
        clock.now += 10
        iterate(loop)
        assert called == ["at"]
        clock.now += FAR
        iterate(loop)
        assert called == ["at", "later"]


def test_the_loops_own_clock_comes_back(loop, patched):
    with patched(loop, Clock()):
        assert loop.call_later(1, print).when() == 1001.0
    before = loop.time()
    timer = loop.call_later(1, print)
    assert before + 1 <= timer.when() <= loop.time() + 1
    timer.cancel()


def test_a_clock_is_asked_how_long_to_wait(loop, patched):
    """The poll ends when the clock says so, not when the time comes on the loop's own clock."""
    clock = Clock(loop.time() + FAR)
    with patched(loop, clock):
        loop.call_later(0.01, loop.stop)
        threading.Timer(0.05, setattr, (clock, "now", clock.now + 1)).start()
        loop.run_forever()
    assert clock.now > loop.time() + FAR - 60


def test_a_timer_that_is_due_within_the_resolution_runs(loop):
    clock, called = Clock(), []
    with on_instance(loop, clock):
        loop._clock_resolution = 0.5
        loop.call_later(0.25, called.append, 1)
        loop.call_later(0.75, called.append, 2)
        iterate(loop)
    assert called == [1]


def test_a_subclass_has_a_clock_of_its_own(loop):
    class Virtual(type(loop)):
        now = 5.0

        def time(self):
            return self.now

    virtual, called = Virtual(), []
    try:
        assert virtual.call_later(1, called.append, 1).when() == 6.0
        iterate(virtual)
        assert called == []
        virtual.now = 6.0
        iterate(virtual)
        assert called == [1]
    finally:
        virtual.close()


def test_a_class_that_is_exchanged(loop):
    class Virtual(type(loop)):
        def time(self):
            return 7.0

    loop.call_later(FAR, print)
    loop.__class__ = Virtual
    assert loop.call_later(1, print).when() == 8.0


@pytest.mark.parametrize("wrong", ["no number", None])
def test_a_clock_without_a_number(loop, wrong):
    with on_instance(loop, lambda: wrong), pytest.raises(TypeError):
        loop.call_later(1, print)


def test_an_exception_of_the_clock_reaches_the_caller(loop):
    timer = loop.call_later(FAR, print)

    def fail():
        raise ZeroDivisionError

    with on_instance(loop, fail):
        with pytest.raises(ZeroDivisionError):
            loop.call_later(1, print)
        with pytest.raises(ZeroDivisionError):
            iterate(loop)
    timer.cancel()
    iterate(loop)


class VirtualTime:
    """As virtual clocks of test tools do it: waiting moves the clock."""

    def __init__(self, loop):
        self.now = 0.0
        self.select = loop._selector.select
        self.waits = []

    def time(self):
        return self.now

    def wait(self, timeout):
        self.waits.append(timeout)
        self.now += timeout or 0
        return self.select(0)


def test_virtual_time(loop):
    clock = VirtualTime(loop)
    with (
        mock.patch.object(loop._selector, "select", clock.wait),
        mock.patch.object(loop, "time", clock.time),
    ):

        async def main():
            await asyncio.sleep(FAR)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(FAR):
                    await asyncio.sleep(10 * FAR)
            return loop.time()

        assert loop.run_until_complete(main()) == pytest.approx(2 * FAR)
    assert max(clock.waits) == pytest.approx(FAR)
    count = len(clock.waits)
    iterate(loop, 20)
    assert len(clock.waits) == count, "the selector is asked no longer"


def test_a_replaced_select_still_brings_events(loop, socket_pair):
    ours, theirs = socket_pair
    clock = VirtualTime(loop)
    with mock.patch.object(loop._selector, "select", lambda timeout: clock.select(timeout)):
        threading.Timer(0.02, theirs.send, (b"data",)).start()
        assert loop.run_until_complete(loop.sock_recv(ours, 10)) == b"data"
        threading.Timer(0.02, loop.call_soon_threadsafe, (loop.stop,)).start()
        loop.run_forever()


@pytest.mark.improves_on_asyncio
def test_only_the_loop_polls(loop):
    with pytest.raises(RuntimeError, match="selector"):
        loop._selector.select(0)


asyncios_run = asyncio.events.Handle._run


@pytest.fixture
def runs():
    """Handles as a replaced `_run()` sees them."""
    seen = []

    def run(self):
        seen.append((self._callback, self._args))
        result = asyncios_run(self)
        seen.append(self._cancelled)
        return result

    with mock.patch.object(asyncio.events.Handle, "_run", run):
        yield seen


@pytest.mark.parametrize("debug", [False, True])
def test_a_replaced_run_is_used(loop, runs, debug):
    loop.set_debug(debug)
    called = []
    loop.call_soon(called.append, 1)
    loop.call_soon_threadsafe(called.append, 2)
    loop.call_later(0, called.append, 3)
    cancelled = loop.call_soon(called.append, 4)
    cancelled.cancel()
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert called == [1, 2, 3]
    for number in called:
        assert (called.append, (number,)) in runs
    assert (loop.stop, ()) in runs
    assert (called.append, (4,)) not in runs


def test_a_replaced_run_of_readers_and_tasks(loop, runs, socket_pair):
    ours, theirs = socket_pair

    async def main():
        received = loop.create_future()
        loop.add_reader(ours, lambda: received.set_result(ours.recv(10)))
        theirs.send(b"x")
        result = await received
        loop.remove_reader(ours)
        return result

    assert loop.run_until_complete(main()) == b"x"
    assert len(runs) > 4


def test_a_replaced_run_reports_exceptions_of_the_callback(loop, runs):
    reports = []
    loop.set_exception_handler(lambda _, report: reports.append(report))
    loop.call_soon(lambda: 1 / 0)
    iterate(loop)
    assert [type(report["exception"]) for report in reports] == [ZeroDivisionError]
    assert isinstance(reports[0]["handle"], asyncio.Handle)


def test_runs_are_asyncios_again(loop, runs):
    loop.call_soon(print)
    iterate(loop)
    with mock.patch.object(asyncio.events.Handle, "_run", asyncios_run):
        count = len(runs)
        called = []
        loop.call_soon(called.append, 1)
        iterate(loop)
        assert called == [1]
        assert len(runs) == count


def test_a_run_of_timers_alone(loop):
    seen = []

    def run(self):
        seen.append(self.when())
        asyncio.Handle._run(self)

    with mock.patch.object(asyncio.TimerHandle, "_run", run, create=True):
        loop.call_soon(print)
        timer = loop.call_later(0, loop.stop)
        loop.run_forever()
    assert seen == [timer.when()]


def test_many_timers_on_another_clock(loop):
    """The order is that of the deadlines."""
    clock, called = Clock(0.0), []
    with on_instance(loop, clock):
        for number in range(500):
            when = number * 379 % 500
            loop.call_at(when, called.append, when)
        for now in range(0, 501, 50):
            clock.now = now
            iterate(loop)
            assert called == list(range(min(now + 1, 500)))


def test_other_attributes_leave_the_clock_alone(loop):
    loop.anything = 1
    assert abs(loop.call_later(0, print).when() - loop.time()) < 60
    del loop.anything
    with pytest.raises(AttributeError):
        del loop.anything
