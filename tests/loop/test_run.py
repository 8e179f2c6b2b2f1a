"""run_forever, run_until_complete, stop, close: what they do and what they refuse."""

import asyncio
import gc
import sys
import threading
import warnings
import weakref

import pytest

# CPython 3.13 cleans up in run_forever even when its first checks fail, so a refused nested run
# makes the outer loop forget that it runs.
if sys.version_info[:2] == (3, 13):
    outer_loop_survives = pytest.mark.improves_on_asyncio
else:

    def outer_loop_survives(test):
        return test


def test_states(loop):
    seen = []
    assert not loop.is_running()
    assert not loop.is_closed()
    loop.call_soon(lambda: seen.append((loop.is_running(), asyncio.get_running_loop() is loop)))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [(True, True)]
    assert not loop.is_running()
    loop.close()
    assert loop.is_closed()
    assert not loop.is_running()


def test_repr(loop):
    loop.set_debug(False)
    assert repr(loop) == f"<{type(loop).__name__} running=False closed=False debug=False>"
    loop.close()
    assert repr(loop) == f"<{type(loop).__name__} running=False closed=True debug=False>"


def test_is_an_asyncio_loop(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert isinstance(loop, asyncio.BaseEventLoop)


def test_weak_reference_to_a_loop(loop):
    assert weakref.ref(loop)() is loop


def test_loops_are_hashable_and_compare_by_identity(loop, loop_factory):
    other = loop_factory()
    assert loop != other
    assert len({loop, other}) == 2
    other.close()


def test_stop_before_run_forever_runs_one_batch(loop):
    seen = []

    def first():
        seen.append("first")
        loop.call_soon(seen.append, "not in this batch")

    loop.call_soon(first)
    loop.stop()
    loop.run_forever()
    assert seen == ["first"]
    loop.stop()
    loop.run_forever()
    assert seen == ["first", "not in this batch"]


def test_stop_in_a_callback_finishes_the_batch(loop):
    seen = []
    loop.call_soon(seen.append, "before")
    loop.call_soon(loop.stop)
    loop.call_soon(seen.append, "after")
    loop.call_soon(lambda: loop.call_soon(seen.append, "next batch"))
    loop.run_forever()
    assert seen == ["before", "after"]
    loop.stop()
    loop.run_forever()
    assert seen == ["before", "after", "next batch"]


def test_stopping_twice_stops_once(loop):
    loop.call_soon(loop.stop)
    loop.call_soon(loop.stop)
    loop.run_forever()
    seen = []
    loop.call_soon(lambda: loop.call_soon(lambda: (seen.append(1), loop.stop())))
    loop.run_forever()
    assert seen == [1]


def test_loop_can_be_run_again_and_again(loop, iterate):
    count = []
    for _ in range(500):
        loop.call_soon(count.append, 1)
        iterate()
    assert len(count) == 500


@outer_loop_survives
def test_run_forever_on_a_running_loop(loop):
    errors = []

    def nested():
        try:
            loop.run_forever()
        except RuntimeError as error:
            errors.append(str(error))
        assert loop.is_running()

    loop.call_soon(nested)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert errors == ["This event loop is already running"]


def test_run_until_complete_on_a_running_loop(loop):
    async def main():
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="^This event loop is already running$"):
            loop.run_until_complete(coroutine)
        coroutine.close()

    loop.run_until_complete(main())


@outer_loop_survives
def test_running_another_loop_inside(loop, loop_factory):
    other = loop_factory()
    message = "^Cannot run the event loop while another loop is running$"

    async def main():
        with pytest.raises(RuntimeError, match=message):
            other.run_forever()
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match=message):
            other.run_until_complete(coroutine)
        coroutine.close()
        assert asyncio.get_running_loop() is loop

    loop.run_until_complete(main())
    other.run_until_complete(asyncio.sleep(0))
    other.close()


def test_asyncio_run_inside_a_running_loop(loop):
    async def main():
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            asyncio.run(coroutine)
        coroutine.close()

    loop.run_until_complete(main())


def test_running_a_closed_loop(loop):
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.run_forever()
    future = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.run_until_complete(future)
    future.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        coroutine = asyncio.sleep(0)
        try:
            loop.create_task(coroutine)
        finally:
            coroutine.close()


def test_run_until_complete_returns_the_result(loop):
    async def answer():
        await asyncio.sleep(0.001)
        return 42

    assert loop.run_until_complete(answer()) == 42
    future = loop.create_future()
    loop.call_soon(future.set_result, "done")
    assert loop.run_until_complete(future) == "done"
    assert loop.run_until_complete(future) == "done"


def test_run_until_complete_raises_the_exception(loop):
    async def fail():
        await asyncio.sleep(0)
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        loop.run_until_complete(fail())


def test_run_until_complete_of_a_cancelled_task(loop):
    async def main():
        await asyncio.sleep(10)

    task = loop.create_task(main())
    loop.call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_run_until_complete_with_the_loop_stopped_early(loop):
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match=r"^Event loop stopped before Future completed\.$"):
        loop.run_until_complete(future)
    future.set_result(None)
    loop.run_until_complete(future)


def test_run_until_complete_of_something_else(loop):
    with pytest.raises(TypeError):
        loop.run_until_complete(42)


def test_run_until_complete_of_a_future_of_another_loop(loop, loop_factory):
    other = loop_factory()
    with pytest.raises(ValueError, match="different (event )?loop|future belongs"):
        loop.run_until_complete(other.create_future())
    other.close()


def test_run_until_complete_leaves_no_callback_behind(loop, iterate):
    """A later result of the future does not stop the loop again."""
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError):
        loop.run_until_complete(future)
    future.set_result(None)
    seen = []
    loop.call_soon(lambda: loop.call_soon(lambda: loop.call_soon(seen.append, 1)))
    loop.call_soon(lambda: loop.call_soon(lambda: loop.call_soon(loop.stop)))
    loop.run_forever()
    assert seen == [1]


def test_closing_a_running_loop(loop):
    async def main():
        with pytest.raises(RuntimeError, match="^Cannot close a running event loop$"):
            loop.close()

    loop.run_until_complete(main())
    assert not loop.is_closed()


def test_closing_twice(loop):
    loop.close()
    loop.close()
    assert loop.is_closed()


def test_closing_drops_what_was_scheduled(loop):
    class Payload:
        pass

    ready, timed = Payload(), Payload()
    references = [weakref.ref(ready), weakref.ref(timed)]
    loop.call_soon(print, ready)
    loop.call_later(10, print, timed)
    del ready, timed
    loop.close()
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_stop_after_close_is_harmless(loop):
    loop.close()
    loop.stop()
    assert loop.is_closed()


def test_methods_of_a_closed_loop_that_need_no_running(loop):
    loop.close()
    assert loop.time() > 0
    assert loop.get_debug() in (True, False)
    loop.set_debug(False)
    assert loop.remove_reader(0) is False
    assert loop.remove_writer(0) is False


def test_cancelling_handles_of_a_closed_loop(loop):
    handles = [loop.call_soon(int), loop.call_later(10, int), loop.call_soon_threadsafe(int)]
    loop.close()
    for handle in handles:
        handle.cancel()
        assert handle.cancelled()
        assert "cancelled" in repr(handle)


def test_unclosed_loop_warns(loop_factory):
    loop = loop_factory()
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()


def test_running_loop_is_reset_after_an_error(loop):
    def crash():
        raise SystemExit(3)

    loop.call_soon(crash)
    with pytest.raises(SystemExit):
        loop.run_forever()
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    assert not loop.is_running()


def test_asyncgen_hooks_are_restored(loop):
    before = sys.get_asyncgen_hooks()
    inside = []
    loop.call_soon(lambda: inside.append(sys.get_asyncgen_hooks()))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert inside[0].firstiter is not None
    assert inside[0] != before
    assert sys.get_asyncgen_hooks() == before


def test_loop_made_in_one_thread_runs_in_another(loop):
    thread_of_callback = []
    thread = threading.Thread(target=loop.run_until_complete, args=(asyncio.sleep(0.001),))
    loop.call_soon(lambda: thread_of_callback.append(threading.current_thread()))
    thread.start()
    thread.join()
    assert thread_of_callback == [thread]
    loop.run_until_complete(asyncio.sleep(0.001))


def test_is_running_seen_from_another_thread(loop):
    states = []

    def look():
        states.append(loop.is_running())
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=look)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert states == [True]


@outer_loop_survives
def test_running_a_loop_that_runs_in_another_thread(loop):
    started, stop = threading.Event(), threading.Event()

    async def main():
        started.set()
        while not stop.is_set():
            await asyncio.sleep(0.001)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        with pytest.raises(RuntimeError, match="^This event loop is already running$"):
            loop.run_forever()
        with pytest.raises(RuntimeError, match="^Cannot close a running event loop$"):
            loop.close()
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def test_runner_with_loop_factory(loop_factory):
    async def main():
        return type(asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        loop = runner.get_loop()
        assert runner.run(main()) is type(loop)
    assert loop.is_closed()


def test_subclassing_the_loop(loop):
    class Mine(type(loop)):
        def __init__(self):
            super().__init__()
            self.stopped = 0

        def stop(self):
            self.stopped += 1
            super().stop()

    mine = Mine()
    mine.call_soon(mine.stop)
    mine.run_forever()
    assert mine.stopped == 1
    mine.tag = "attributes can be set"
    mine.close()


def test_attributes_can_be_set_on_a_loop(loop):
    loop.application = "mine"
    assert loop.application == "mine"


def test_no_warning_from_making_and_using_a_loop(loop_factory):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        loop = loop_factory()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert seen == []
