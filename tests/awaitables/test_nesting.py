"""Coroutines in coroutines, very deep."""

import contextlib
import gc
import sys
import warnings

import pytest

pytestmark = pytest.mark.improves_on_asyncio

DEPTH = 50_000


def nested(callbacks, depth, innermost=None):
    aw = innermost
    for _ in range(depth):
        outer = callbacks.new()
        if aw is not None:
            callbacks.add_await(outer, aw)
        aw = outer
    return aw


def test_too_deep_is_a_recursion_error(callbacks):
    """(T2.16)"""
    aw = nested(callbacks, DEPTH)
    with pytest.raises(RecursionError):
        aw.send(None)
    del aw
    gc.collect()


def test_too_deep_to_close(callbacks):
    """(T2.16)"""
    aw = nested(callbacks, DEPTH)
    aw.close()


def test_too_deep_and_never_awaited(callbacks):
    """(T2.16)"""
    gc.collect()  # what earlier tests have left
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        aw = nested(callbacks, DEPTH)
        del aw
        gc.collect()
    assert len(caught) == 1


class Yields:
    def __await__(self):
        yield


@pytest.mark.parametrize("use", ["send", "throw", "close", "drop"])
def test_as_deep_as_it_gets(callbacks, use, monkeypatch):
    """What is too deep to be closed as well is reported (T2.16)."""
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: reported.append(it.exc_type))
    low, high = 1, DEPTH
    while high - low > 1:
        depth = (low + high) // 2
        aw = nested(callbacks, depth, Yields())
        try:
            aw.send(None)
            low = depth
        except RecursionError:
            high = depth
        else:
            with contextlib.suppress(RecursionError):
                aw.close()
    # A little less, for what else is on the stack.
    aw = nested(callbacks, low - low // 20, Yields())
    aw.send(None)
    match use:
        case "send":
            with pytest.raises(StopIteration):
                aw.send(None)
        case "throw":
            with pytest.raises((LookupError, RecursionError)):
                aw.throw(LookupError)
        case "close":
            with contextlib.suppress(RecursionError):
                aw.close()
        case "drop":
            del aw
    gc.collect()
    assert set(reported) <= {RecursionError}
