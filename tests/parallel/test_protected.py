"""Containers shared with parallel threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from hybridloop import parallel


def elsewhere(function: Callable[[], Any]) -> Any:
    """Run a function in a parallel thread."""
    return parallel.submit_work(function, errback=lambda triple: None).result(20)


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
    with pytest.raises(TypeError, match="can be protected"):
        parallel.protect({})  # type: ignore[type-var]


def test_locks() -> None:
    items = parallel.list([1])
    parallel.read_lock(items)
    assert elsewhere(lambda: items[0]) == 1
    assert not elsewhere(lambda: parallel.try_write_lock(items))
    with pytest.raises(RuntimeError, match="cannot start to write"):
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
    handle.result(20)
    assert items == [1]
