"""Containers that parallel threads share. Private tables of guards must not grow."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hybridloop import parallel
from hybridloop.parallel import guards
from hybridloop.parallel.runtime import get_runtime


def elsewhere(function: Callable[[], Any]) -> Any:
    """Run a function in a parallel thread."""
    return parallel.submit_work(function, errback=lambda triple: None).result(60)


def test_dict_from_parallel_threads() -> None:
    d = parallel.dict(a=1)
    assert parallel.protected(d)
    for name in ("foo", "bar"):
        elsewhere(lambda name=name: d.__setitem__(name, name.upper()))
    assert d == {"a": 1, "foo": "FOO", "bar": "BAR"} == dict(d)
    assert len(d) == 3 and sorted(d) == ["a", "bar", "foo"] and "foo" in d
    del d["a"]
    assert d.get("a") is None


def test_list_from_parallel_threads() -> None:
    items = parallel.list([None, 1])
    elsewhere(lambda: items.append(2))
    elsewhere(lambda: items.__setitem__(0, 0))
    assert items == [0, 1, 2] == list(items)
    assert items[1:] == [1, 2] and len(items) == 3


def test_a_slot_is_filled_once() -> None:
    d, items = parallel.dict(empty=None, full=1), parallel.list([None, 1])
    elsewhere(lambda: d.__setitem__("empty", 2))
    for change in (
        lambda: d.__setitem__("full", 2),
        lambda: d.__delitem__("full"),
        lambda: items.__setitem__(1, 2),
        lambda: items.__setitem__(slice(0, 2), [0, 0]),
        lambda: items.pop(),
    ):
        with pytest.raises(parallel.AssignmentError, match="has a value already: 1"):
            elsewhere(change)
    d["full"] = items[1] = 5
    assert d["full"] == items.pop() == 5


def test_unprotected_cannot_be_changed_elsewhere() -> None:
    d = parallel.unprotect(parallel.dict())
    assert not parallel.protected(d)
    d["here"] = 1
    with pytest.raises(parallel.UnprotectedError, match=r"protect\(\) it"):
        elsewhere(lambda: d.__setitem__("there", 1))
    with pytest.raises(parallel.ProtectionError, match="is not protected"):
        parallel.read_lock(d)
    elsewhere(lambda: parallel.protect(d).__setitem__("there", 1))
    assert d == {"here": 1, "there": 1}


def test_locks() -> None:
    items = parallel.list([1])
    parallel.read_lock(items)
    assert elsewhere(lambda: items[0]) == 1
    assert not elsewhere(lambda: parallel.try_write_lock(items))
    with pytest.raises(RuntimeError, match="cannot take the write lock"):
        parallel.write_lock(items)
    parallel.read_unlock(items)
    parallel.write_lock(items)
    items.append(2)
    assert items[1] == 2
    assert not elsewhere(lambda: parallel.try_read_lock(items))
    parallel.write_unlock(items)
    for unlock in (parallel.read_unlock, parallel.write_unlock):
        with pytest.raises(RuntimeError, match="this thread holds no"):
            unlock(items)


def test_a_writer_waits_for_readers() -> None:
    items = parallel.list()
    parallel.read_lock(items)
    handle = parallel.submit_work(items.append, 1)
    done = threading.Event()
    handle.add_done_callback(lambda _: done.set())
    assert not done.wait(0.05)
    parallel.read_unlock(items)
    handle.result(60)
    assert items == [1]


class Point:
    """An ordinary class."""

    def __init__(self) -> None:
        self.x: Any = None
        self.y: Any = 1

    def sum(self) -> Any:
        return self.x + self.y


class OwnDict(dict[str, Any]):
    """A dictionary with attributes."""


def test_objects_of_any_python_class() -> None:
    for thing in (Point(), parallel.object(x=None, y=1)):
        cls = type(thing)
        assert parallel.protect(thing) is thing and parallel.protected(thing)
        assert isinstance(thing, cls) and type(thing).__name__ == cls.__name__
        elsewhere(lambda thing=thing: setattr(thing, "x", 5))
        assert thing.x == 5
        for change in (lambda: setattr(thing, "y", 2), lambda: delattr(thing, "x")):  # noqa: B023
            with pytest.raises(parallel.AssignmentError, match="has a value already"):
                elsewhere(change)
        thing.y = 3
        parallel.unprotect(thing)
        assert not parallel.protected(thing)
        with pytest.raises(parallel.UnprotectedError, match=r"protect\(\) it"):
            elsewhere(lambda thing=thing: setattr(thing, "z", 1))
        thing.z = 1
        parallel.protect(thing)
        elsewhere(lambda thing=thing: setattr(thing, "w", 1))
        assert (thing.x, thing.y, thing.z, thing.w) == (5, 3, 1, 1)
    point = parallel.protect(Point())
    point.x = 2
    assert point.sum() == 3
    assert type(parallel.protect(Point())) is type(point)
    own = parallel.protect(OwnDict(a=1))
    own.note = "x"
    assert own == {"a": 1} and own.note == "x"


def test_what_cannot_be_protected() -> None:
    for thing in ({}, [], (), 1, "text", None, len):
        with pytest.raises(parallel.ProtectionError, match=r"cannot be protected; use dict\(\)"):
            parallel.protect(thing)
        assert not parallel.protected(thing)
        for function in (
            parallel.read_lock,
            parallel.read_unlock,
            parallel.try_read_lock,
            parallel.write_lock,
            parallel.write_unlock,
            parallel.try_write_lock,
            parallel.unprotect,
            parallel.prewait,
            parallel.signal,
            parallel.wait,
        ):
            with pytest.raises(parallel.ProtectionError, match="is not protected"):
                function(thing)


def test_guards_end_with_their_objects() -> None:
    point = parallel.protect(Point())
    key = id(point)
    assert key in guards._guards
    del point
    gc.collect()
    assert key not in guards._guards
    bare = parallel.protect(object())
    assert id(bare) in guards._guards
    parallel.unprotect(bare)
    assert id(bare) not in guards._guards


def test_locks_end_with_their_block() -> None:
    items = parallel.list()
    with parallel.read_lock(items):
        assert not elsewhere(lambda: parallel.try_write_lock(items))
    with parallel.write_lock(items), parallel.write_lock(items):
        assert not elsewhere(lambda: parallel.try_read_lock(items))
    assert elsewhere(lambda: (parallel.try_write_lock(items), parallel.write_unlock(items))[0])


def forget_other_tests() -> None:
    """Collect what they have left; a parallel thread keeps its last call for a moment."""
    threads = get_runtime().threads
    barrier = threading.Barrier(threads)
    for _ in range(threads):
        parallel.submit_work(barrier.wait, 60)
    parallel.run()
    gc.collect()


def test_values_of_parallel_threads_are_counted() -> None:
    forget_other_tests()
    before = parallel.persisted_contexts()
    d, items, thing = parallel.dict(), parallel.list([None, None]), parallel.object(slot=None)
    elsewhere(lambda: d.__setitem__("a", 1))
    elsewhere(lambda: items.__setitem__(1, 2))
    elsewhere(lambda: setattr(thing, "slot", 3))
    assert parallel.persisted_contexts() == before + 3
    items.insert(0, "shifts the others")
    del items[2]
    del thing.slot
    assert parallel.persisted_contexts() == before + 1
    d["a"] = "of the main thread"
    assert parallel.persisted_contexts() == before
    elsewhere(lambda: d.__setitem__("b", 1))
    d = None
    gc.collect()
    assert parallel.persisted_contexts() == before


def test_sorting_and_slices() -> None:
    items = parallel.list([3, 1, 2])
    items.sort()
    assert items == [1, 2, 3]
    items.sort(key=lambda n: -n)
    items[1:] = [7, 8, 9]
    items.reverse()
    assert items == [9, 8, 7, 3] and parallel.list([9, 8, 7, 3]) == items
    del items[::2]
    assert items == [8, 3]
    with pytest.raises(parallel.AssignmentError):
        elsewhere(items.sort)


def test_critical_sections_and_synchronized_blocks() -> None:
    inside = 0
    seen: list[int] = []

    @parallel.critical_section
    def alone() -> None:
        nonlocal inside
        inside += 1
        seen.append(inside)
        inside -= 1

    def block(obj: Any) -> None:
        nonlocal inside
        with parallel.synchronized(obj):
            inside += 1
            seen.append(inside)
            inside -= 1

    shared = parallel.object()
    for _ in range(50):
        parallel.submit_work(alone)
    parallel.run()
    for obj in (None, shared):
        for _ in range(50):
            parallel.submit_work(block, (obj,))
        parallel.run()
    assert seen == [1] * 150


def test_signals() -> None:
    first, second = parallel.object(), parallel.protect(object())
    with pytest.raises(parallel.NoWaitersError, match="nothing waits"):
        parallel.signal(first)
    with pytest.raises(parallel.NoWaitersError):
        parallel.signal_and_wait(first, second)
    with pytest.raises(parallel.WaitError, match="wait for itself"):
        parallel.signal_and_wait(first, first)
    third = parallel.object()
    with pytest.raises(parallel.WaitError, match=r"without prewait\(\)"):
        elsewhere(lambda: parallel.wait(third))
    assert parallel.prewait(first) is first
    parallel.signal(first)
    parallel.signal(first)
    parallel.wait(first, 0)
    with pytest.raises(parallel.WaitTimeoutError, match="no signal within 0.01 s"):
        parallel.wait(first, 0.01)
    parallel.unprotect(second)


def test_a_reader_and_a_writer_signal_each_other() -> None:
    order: list[str] = []
    shared, to_reader, to_writer = (parallel.object() for _ in range(3))

    def reader() -> None:
        with parallel.read_lock(shared):
            parallel.signal_and_wait(to_writer, to_reader, 60)
            order.append("read")

    def writer() -> None:
        parallel.signal(to_reader)
        with parallel.write_lock(shared):
            order.append("written")

    parallel.submit_wait(to_reader, reader)
    parallel.submit_wait(to_writer, writer)
    parallel.signal(to_reader)
    parallel.run()
    assert order == ["read", "written"]


def test_waiting_for_any_and_all() -> None:
    objects = [parallel.prewait(parallel.object()) for _ in range(3)]
    parallel.signal(objects[1])
    assert parallel.wait_any(objects, 60) is objects[1]
    with pytest.raises(parallel.WaitTimeoutError):
        parallel.wait_any(objects, 0.01)
    parallel.submit_timer(0.01, parallel.signal, objects[2])
    assert parallel.wait_any(objects, 60) is objects[2]
    parallel.signal(objects[0])
    with pytest.raises(parallel.WaitTimeoutError, match="of 2 objects"):
        parallel.wait_all(objects, 0.01)
    # The signal that had come is not lost.
    for thing in objects[1:]:
        parallel.submit_work(parallel.signal, thing)
    parallel.wait_all(objects, 60)
    for function in (parallel.wait_any, parallel.wait_all):
        with pytest.raises(parallel.WaitError, match="nothing to wait for"):
            function(())
    parallel.run()


def test_submit_wait_for_a_signal_in_time() -> None:
    seen: list[Any] = []
    thing = parallel.object()
    parallel.submit_wait(thing, seen.append, "late", timeout=0.01, errback=seen.append)
    parallel.run()
    assert seen[0][0] is TimeoutError
    # Who gave up does not take the next one's signal.
    parallel.submit_wait(thing, seen.append, "in time", timeout=60)
    parallel.signal(thing)
    parallel.run()
    assert seen[1:] == ["in time"]
