"""Futures that the loop resolves natively are like others, in private attributes too."""

import asyncio
import contextvars
import gc
import weakref

import pytest

import hybridloop

variable = contextvars.ContextVar("variable", default=None)


class Waiting:
    """A task that receives again and again, and what it waits for."""

    def __init__(self, loop, socket_pair):
        self.loop = loop
        self.ours, self.theirs = socket_pair
        self.received = []
        self.task = loop.create_task(self.receive())

    async def receive(self):
        while data := await self.loop.sock_recv(self.ours, 10):
            self.received.append(data)

    async def future(self):
        """What it waits for next."""
        while self.task._fut_waiter is None:
            await asyncio.sleep(0)
        return self.task._fut_waiter

    async def send(self, data):
        before = len(self.received)
        self.theirs.send(data)
        while len(self.received) == before:
            await asyncio.sleep(0)

    async def end(self):
        self.theirs.close()
        await self.task


@pytest.fixture
def waiting(loop, socket_pair):
    waiting = Waiting(loop, socket_pair)
    yield waiting
    waiting.task.cancel()
    loop.run_until_complete(asyncio.wait([waiting.task]))


async def test_futures_are_as_old_as_the_collector_takes_them_for(waiting):
    """The youngest of all tracked objects is the one that was made last."""
    for _ in range(20):
        await waiting.send(b"x")
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            before = type("Before", (), {})()
            future = waiting.loop.create_future()
            young = list(map(id, gc.get_objects(generation=0)))
            assert young.index(id(before)) < young.index(id(future))
            await waiting.send(b"x")
    finally:
        gc.enable()


async def test_a_future_that_is_kept_stays_as_it_was(waiting):
    kept = []
    for _ in range(50):
        kept.append(await waiting.future())
        await waiting.send(b"x")
    assert len(set(map(id, kept))) == 50
    assert all(future.done() and future.result() is None for future in kept)
    assert not (await waiting.future()).done()


async def test_weak_references_to_a_future(waiting):
    gone = []
    for _ in range(20):
        future = await waiting.future()
        weakref.finalize(future, gone.append, len(gone))
        reference = weakref.ref(future)
        del future
        await waiting.send(b"x")
        alive = reference()
        assert alive is None or alive.done()
        del alive
    for _ in range(20):
        await waiting.send(b"x")
    assert len(gone) == 20


async def test_a_future_has_no_attributes_of_another(waiting):
    for number in range(20):
        future = await waiting.future()
        assert not hasattr(future, "mark")
        future.mark = number
        del future
        await waiting.send(b"x")


async def test_all_callbacks_of_a_future_run(waiting):
    for _ in range(3):
        called = []
        future = await waiting.future()
        future.add_done_callback(called.append)
        future.add_done_callback(called.append)
        await waiting.send(b"x")
        await asyncio.sleep(0)
        assert called == [future, future]


async def test_a_callback_removed_by_somebody_leaves_nothing_to_run(waiting):
    future = await waiting.future()
    assert future.get_loop() is waiting.loop
    called = []
    future.add_done_callback(called.append)
    assert future.remove_done_callback(called.append) == 1
    await waiting.send(b"x")
    assert called == []
    assert waiting.received == [b"x"]


async def test_cancelling_after_many_waits(waiting):
    for _ in range(10):
        await waiting.send(b"x")
    future = await waiting.future()
    waiting.task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await waiting.task
    assert future.cancelled()
    for _ in range(10):
        assert not waiting.loop.create_future().done()


async def test_cancelling_in_the_turn_in_which_data_comes(loop, waiting):
    """The future has its result, and its callback is on the way."""
    for _ in range(5):
        await waiting.send(b"x")
    future = await waiting.future()
    waiting.theirs.send(b"y")
    while not future.done():
        await asyncio.sleep(0)
    waiting.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    assert future.result() is None
    assert await loop.sock_recv(waiting.ours, 10) == b"y"


async def test_the_context_of_the_task_is_that_of_its_steps(loop, socket_pair):
    ours, theirs = socket_pair
    number = variable.get
    seen = []

    async def receive(mine):
        variable.set(mine)
        for _ in range(5):
            await loop.sock_recv(ours, 1)
            seen.append(number() == mine)

    task = loop.create_task(receive(7))
    for _ in range(5):
        variable.set(object())
        before = len(seen)
        theirs.send(b"x")
        while len(seen) == before:
            await asyncio.sleep(0)
    await task
    assert seen == [True] * 5


async def test_user_futures_are_new(loop, waiting):
    for _ in range(5):
        await waiting.send(b"x")
    for _ in range(5):
        future = loop.create_future()
        assert not future.done()
        assert not future.cancelled()
        assert future.get_loop() is loop
        assert future._callbacks is None
        assert not future._asyncio_future_blocking
        with pytest.raises(asyncio.InvalidStateError):
            future.result()
        loop.call_soon(future.set_result, "value")
        assert await future == "value"


async def test_an_exception_in_a_user_future_is_still_reported(loop, waiting):
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    for _ in range(5):
        await waiting.send(b"x")
        future = loop.create_future()
        future.set_exception(ValueError("never looked at"))
        del future
    gc.collect()
    assert len(reports) == 5
    assert {str(report["exception"]) for report in reports} == {"never looked at"}


async def test_debug_mode_in_between(loop, waiting):
    loop.slow_callback_duration = 10  # a busy machine is no fault of a test
    for debug in (False, True, False, True):
        await waiting.future()
        loop.set_debug(debug)
        await waiting.send(b"x")  # what waited for this was made before
        for _ in range(5):
            future = await waiting.future()
            assert (future._source_traceback is not None) == debug
            del future
            await waiting.send(b"x")


def test_a_loop_with_a_call_soon_of_its_own_sees_every_callback(socket_pair):
    class Counting(hybridloop.Loop):
        calls = 0

        def call_soon(self, *args, **kwargs):
            self.calls += 1
            return super().call_soon(*args, **kwargs)

    async def main(loop):
        waiting = Waiting(loop, socket_pair)
        future = await waiting.future()
        before = loop.calls
        waiting.theirs.send(b"x")
        while not future.done():
            await loop.run_in_executor(None, future.done)
        seen = loop.calls - before
        await waiting.end()
        return seen

    with asyncio.Runner(loop_factory=Counting) as runner:
        seen = runner.run(main(runner.get_loop()))
    assert seen >= 2


def test_waiting_goes_on_in_later_runs_and_other_loops(socket_pair):
    ours, theirs = socket_pair

    async def exchange(loop):
        for _ in range(5):
            loop.call_later(0.001, theirs.send, b"x")
            assert await loop.sock_recv(ours, 10) == b"x"

    for _ in range(2):
        with asyncio.Runner(loop_factory=hybridloop.new_event_loop) as runner:
            for _ in range(3):
                runner.run(exchange(runner.get_loop()))


def test_the_loop_goes_away_with_its_futures(socket_pair):
    ours, theirs = socket_pair

    async def exchange(loop):
        for _ in range(5):
            loop.call_soon(theirs.send, b"x")
            await loop.sock_recv(ours, 10)

    loop = hybridloop.new_event_loop()
    loop.run_until_complete(exchange(loop))
    loop.close()
    reference = weakref.ref(loop)
    del loop
    gc.collect()
    assert reference() is None
