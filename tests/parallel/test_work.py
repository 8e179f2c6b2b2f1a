"""`hybridloop.parallel`: work, callbacks, and errors raised by `run()`.

Private attributes of handles show when work has started.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

import pytest

from hybridloop import parallel
from hybridloop.parallel.runtime import get_runtime
from tests.support.waiting import until

pytestmark = pytest.mark.filterwarnings("error")


def fail(error: BaseException) -> None:
    raise error


def test_callback_gets_the_result() -> None:
    results: list[Any] = []
    for n in range(10):
        parallel.submit_work(pow, (n, 2), callback=results.append)
    parallel.run()
    assert sorted(results) == [n * n for n in range(10)]
    parallel.submit_work(dict, None, {"a": 1}, callback=results.append)
    parallel.submit_work(len, "one argument", callback=results.append)
    parallel.run()
    assert results[10:] in ([{"a": 1}, 12], [12, {"a": 1}])


def test_errback_gets_the_triple() -> None:
    seen: list[Any] = []
    error = LookupError("lost")
    parallel.submit_work(fail, error, errback=seen.append)
    parallel.run()
    ((kind, value, traceback),) = seen
    assert kind is LookupError and value is error
    assert traceback.tb_next is not None


def test_one_queued_error_per_run() -> None:
    parallel.submit_work(fail, LookupError("first"))
    parallel.submit_work(fail, LookupError("second"))
    messages = []
    for _ in range(2):
        with pytest.raises(LookupError) as caught:
            parallel.run()
        messages.append(str(caught.value))
    assert sorted(messages) == ["first", "second"]
    parallel.run()


def test_callback_errors_go_to_the_errback() -> None:
    seen: list[Any] = []
    parallel.submit_work(int, callback=lambda n: fail(OSError(n)), errback=seen.append)
    parallel.run()
    assert isinstance(seen[0][1], OSError)


@pytest.mark.parametrize("where", ["callback", "errback"])
def test_callbacks_must_return_none(where: str) -> None:
    if where == "callback":
        parallel.submit_work(int, callback=lambda n: n)
    else:
        parallel.submit_work(fail, OSError(), errback=lambda triple: triple)
    with pytest.raises(ValueError, match="non-None return value detected"):
        parallel.run()


def test_errback_that_fails_is_raised_by_run() -> None:
    parallel.submit_work(fail, OSError(), errback=lambda triple: fail(KeyError("in errback")))
    with pytest.raises(KeyError, match="in errback"):
        parallel.run()


def test_a_list_is_one_argument_and_a_tuple_is_all_of_them() -> None:
    assert parallel.submit_work(len, [1, 2, 3]).result(60) == 3
    assert parallel.submit_work(max, (1, 5)).result(60) == 5
    parallel.run()


def test_more_jobs_that_wait_than_threads() -> None:
    """Each item waits for the one after it, so all of them have to be in a thread at once."""
    count = 40
    objects = [parallel.prewait(parallel.object()) for _ in range(count)]
    order: list[int] = []

    def work(index: int) -> None:
        parallel.wait(objects[index], 60)
        order.append(index)
        if index:
            parallel.signal(objects[index - 1])

    for index in range(count):
        parallel.submit_work(work, index)
    assert parallel.active_contexts() == count
    parallel.signal(objects[-1])
    parallel.run()
    assert order == [*range(count)][::-1]
    assert parallel.active_contexts() == 0


def test_cancelling() -> None:
    seen: list[Any] = []
    release = threading.Event()
    later = parallel.submit_timer(60, seen.append, 1, errback=seen.append)
    assert later.cancel()
    running = parallel.submit_io(release.wait, (60,))
    while not running._started:  # type: ignore[attr-defined]
        time.sleep(0.001)
    assert not running.cancel(), "a function that runs cannot be stopped"
    release.set()
    awaited = parallel.submit_work(asyncio.sleep, 60)
    while awaited._engine_task is None:  # type: ignore[attr-defined]
        time.sleep(0.001)
    assert awaited.cancel()
    parallel.run()
    assert seen == []
    assert later.cancelled() and awaited.cancelled() and running.result() is True
    assert not later.cancel()


def test_a_coroutine_is_closed_if_it_is_cancelled_before_it_has_begun() -> None:
    async def never() -> None:
        raise AssertionError

    threads = get_runtime().threads
    blocked, release = threading.Barrier(threads + 1), threading.Event()

    async def block() -> None:
        blocked.wait(60)
        release.wait(60)

    def is_queued(item: Any) -> bool:
        return item._engine_task is not None

    for _ in range(threads):
        parallel.submit_work(block)
    blocked.wait(60)
    coroutines = [never() for _ in range(8)]
    items = [parallel.submit_work(lambda: coroutines[0])]
    items += [parallel.submit_wait(it) for it in coroutines[1:]]
    while not all(map(is_queued, items)):
        time.sleep(0.001)
    for item in items:
        assert item.cancel()
    release.set()
    parallel.run()
    assert all(it.cr_frame is None for it in coroutines)


def test_handle_carries_the_value() -> None:
    handle = parallel.submit_work(pow, (3, 3))
    assert handle.result(60) == 27

    async def main() -> Any:
        return await parallel.submit_work(pow, (2, 5))

    assert asyncio.run(main()) == 32
    failed = parallel.submit_work(fail, LookupError("both ways"), errback=lambda triple: None)
    with pytest.raises(LookupError, match="both ways"):
        failed.result(60)


def test_coroutine_functions_are_awaited() -> None:
    seen: list[Any] = []

    async def later(value: int) -> int:
        await asyncio.sleep(0.001)
        return value

    parallel.submit_work(later, (5,), callback=seen.append)
    parallel.run()
    assert seen == [5]


def test_work_runs_in_parallel_threads() -> None:
    seen: list[Any] = []
    parallel.submit_work(
        lambda: (threading.current_thread(), parallel.is_parallel_thread()), callback=seen.append
    )
    parallel.run()
    ((thread, is_parallel),) = seen
    assert thread is not threading.current_thread()
    assert is_parallel and not parallel.is_parallel_thread()
    assert parallel.mode() in ("parallel", "concurrent")


def test_run_once() -> None:
    with pytest.raises(parallel.AsyncRunCalledWithoutEventsError):
        parallel.run_once()
    parallel.submit_work(int)
    parallel.submit_work(int)
    parallel.run_once()
    parallel.run_once()
    with pytest.raises(parallel.AsyncRunCalledWithoutEventsError):
        parallel.run_once()
    parallel.submit_work(fail, OSError("once"))
    with pytest.raises(OSError, match="once"):
        parallel.run_once()
    with pytest.raises(parallel.AsyncRunCalledWithoutEventsError):
        parallel.run_once()


def test_call_from_main_thread() -> None:
    store: dict[str, Any] = {}

    def put(key: str, value: Any) -> None:
        store[key] = value, threading.current_thread()

    parallel.submit_work(lambda: parallel.call_from_main_thread(put, ("key", 1)))
    parallel.run()
    assert store == {"key": (1, threading.current_thread())}
    parallel.call_from_main_thread(put, ("direct", 2))
    assert store["direct"] == (2, threading.current_thread())


def test_call_from_main_thread_warns_of_a_result_and_run_raises_its_error() -> None:
    parallel.submit_work(lambda: parallel.call_from_main_thread(int, ()))
    with pytest.warns(RuntimeWarning, match="ignores the result of the function: 0"):
        parallel.run()
    parallel.submit_work(lambda: parallel.call_from_main_thread(fail, KeyError("main")))
    with pytest.raises(KeyError, match="main"):
        parallel.run()


def test_call_from_main_thread_as_decorators() -> None:
    seen: list[Any] = []

    @parallel.call_from_main_thread
    def note(*args: Any, **kwds: Any) -> None:
        seen.append((args, kwds, parallel.is_parallel_thread()))

    @parallel.call_from_main_thread_and_wait
    def double(n: int) -> int:
        assert not parallel.is_parallel_thread()
        return 2 * n

    def work() -> int:
        note(1, key=2)
        return double(21)

    handle = parallel.submit_work(work)
    parallel.run()
    assert handle.result() == 42
    assert seen == [((1,), {"key": 2}, False)]
    assert double.__name__ == "double" and double(4) == 8


def test_call_from_main_thread_and_wait() -> None:
    seen: list[Any] = []

    def work() -> tuple[Any, str]:
        value = parallel.call_from_main_thread_and_wait(threading.get_ident, ())
        try:
            parallel.call_from_main_thread_and_wait(fail, LookupError("from main"))
        except LookupError as error:
            return value, str(error)
        return value, "nothing raised"

    parallel.submit_work(work, callback=seen.append)
    parallel.run()
    assert seen == [(threading.get_ident(), "from main")]
    assert parallel.call_from_main_thread_and_wait(pow, (2, 3)) == 8


def test_submit_timer() -> None:
    seen: list[Any] = []
    begin = time.monotonic()
    later = parallel.submit_timer(600, seen.append, 2)
    parallel.submit_timer(0.06, lambda: seen.append(later.cancel()), callback=None)
    parallel.run()
    assert seen == [True] and later.cancelled()
    assert time.monotonic() - begin >= 0.06
    with pytest.raises(ValueError, match="seconds from now"):
        parallel.submit_timer(-1, int)


def test_submit_io_does_not_hold_the_others() -> None:
    release = threading.Event()
    seen: list[Any] = []
    parallel.submit_io(release.wait, (60,), callback=seen.append)

    def work(n: int) -> None:
        seen.append(n)
        if len(seen) == 20:
            release.set()

    for n in range(20):
        parallel.submit_work(work, n)
    parallel.run()
    assert sorted(seen[:-1]) == list(range(20))
    assert seen[-1] is True


def test_submit_wait() -> None:
    order: list[str] = []
    event = threading.Event()
    left, right = socket.socketpair()

    async def soon() -> None:
        await asyncio.sleep(0.001)

    with left, right:
        parallel.submit_wait(event, order.append, "event")
        parallel.submit_wait(left, lambda: order.append(left.recv(10).decode()))
        parallel.submit_wait(soon(), order.append, "awaitable")
        parallel.submit_work(event.set)
        parallel.submit_work(right.send, b"socket")
        parallel.run()
    assert sorted(order) == ["awaitable", "event", "socket"]


def test_submit_wait_timeout_and_bad_object() -> None:
    seen: list[Any] = []
    left, right = socket.socketpair()
    with left, right:
        parallel.submit_wait(left, int, timeout=0.01, errback=seen.append)
        parallel.submit_wait(threading.Event(), int, timeout=0.01, errback=seen.append)
        parallel.run()
    assert [kind for kind, _, _ in seen] == [TimeoutError, TimeoutError]
    assert "was not ready within 0.01 s" in str(seen[0][1])
    with pytest.raises(TypeError, match=r"wait\(\), fileno\(\) or __await__\(\), is expected"):
        parallel.submit_wait(object(), int)


def test_bad_function() -> None:
    with pytest.raises(TypeError, match="a function is expected, not 5"):
        parallel.submit_work(5)  # type: ignore[arg-type]


def test_many_jobs() -> None:
    total = 0

    def add(n: int) -> None:
        nonlocal total
        total += n

    def submit(n: int) -> None:
        parallel.submit_work(lambda: parallel.call_from_main_thread(add, n))

    for n in range(3000):
        submit(n)
    parallel.run()
    assert total == sum(range(3000))


def test_a_forked_child_starts_afresh() -> None:
    parallel.submit_work(int)
    parallel.run()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            seen: list[Any] = []
            parallel.submit_work(pow, (2, 2), callback=seen.append)
            parallel.run()
            status = 0 if seen == [4] else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_process_ends_with_work_under_way() -> None:
    script = (
        "import asyncio\n"
        "from hybridloop import parallel\n"
        "async def in_executor():\n"
        "    await asyncio.to_thread(int)\n"
        "parallel.submit_work(in_executor)\n"
        "parallel.run()\n"
        "parallel.submit_timer(60, print, 'never')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("kind", ["timer", "signal", "coroutine", "map"])
def test_none_of_many_is_lost(kind: str) -> None:
    """What waits on the engine first is handed over to the pool after it has left its context."""
    count = 2_000
    called: list[int] = []

    async def function(number: int) -> int:
        await asyncio.sleep(0)
        return number

    if kind == "timer":
        for number in range(count):
            parallel.submit_timer(number % 10 / 1000, called.append, number)
    elif kind == "signal":
        objects = [parallel.object() for _ in range(count)]
        for number, obj in enumerate(objects):
            parallel.submit_wait(obj, called.append, number)
        for obj in objects:
            parallel.prewait(obj)
            parallel.signal(obj)
    elif kind == "coroutine":
        for number in range(count):
            parallel.submit_work(function, number, callback=called.append)
    else:
        for _ in range(count // 10):
            parallel.map(function, range(10), callback=called.extend)
    parallel.run()
    assert len(called) == count


def test_errors_that_somebody_waits_for_are_his() -> None:
    """`run()` raises only what nobody else gets, and keeps nothing of what was dealt with."""

    async def main() -> int:
        caught = 0
        for _ in range(100):
            try:
                await parallel.submit_work(fail, LookupError("awaited"))
            except LookupError:
                caught += 1
        return caught

    assert asyncio.run(main()) == 100
    for _ in range(100):
        with pytest.raises(LookupError):
            parallel.submit_work(fail, LookupError("blocking")).result(60)
    assert get_runtime().errors == {}
    parallel.run()


def test_an_error_that_is_asked_for_while_its_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run()`, which may look at any time, never sees an error that somebody has."""
    runtime, asked, seen = get_runtime(), threading.Event(), []
    end = runtime.end

    def end_late(*args: Any) -> None:
        assert asked.wait(60)
        with runtime.changed:
            end(*args)
            seen.append(dict(runtime.errors))

    monkeypatch.setattr(runtime, "end", end_late)
    handle = parallel.submit_work(fail, LookupError("asked for"))
    until(handle.done)
    assert isinstance(handle.exception(), LookupError)
    asked.set()
    parallel.run()
    assert seen == [{}]


def test_an_error_that_is_asked_for_before_run() -> None:
    handle = parallel.submit_work(fail, LookupError("asked for"))
    while not get_runtime().errors:
        time.sleep(0.001)
    assert isinstance(handle.exception(), LookupError)
    parallel.run()
    other = parallel.submit_work(fail, LookupError("raised"))
    with pytest.raises(LookupError, match="raised"):
        parallel.run()
    assert isinstance(other.exception(60), LookupError)


def test_run_in_a_running_loop_is_refused() -> None:
    async def main() -> None:
        for run in (parallel.run, parallel.run_once):
            with pytest.raises(RuntimeError, match="would block the running loop"):
                run()

    asyncio.run(main())
