"""Coroutines written in C that nobody awaits."""

import asyncio
import gc
import sys
import warnings

import pytest

pytestmark = pytest.mark.improves_on_asyncio

TEXT = "coroutine 'tests.callbacks.coroutine' was never awaited"


async def waits():
    await asyncio.sleep(0)


def warned(make):
    gc.collect()  # what earlier tests have left
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
        gc.collect()
    return [(warning.category, str(warning.message)) for warning in caught]


def test_one_warning_with_the_name(callbacks):
    """(T2.10)"""
    assert warned(lambda: callbacks.new()) == [(RuntimeWarning, TEXT)]


def test_what_is_queued_is_closed(callbacks):
    """(T2.10)"""
    inner = []

    def make():
        aw = callbacks.new()
        for _ in range(3):
            inner.append(waits())
            callbacks.add_await(aw, inner[-1])
        nested = callbacks.new()
        callbacks.add_await(nested, waits())
        callbacks.add_await(aw, nested)

    assert warned(make) == [(RuntimeWarning, TEXT)]
    assert [coroutine.cr_frame for coroutine in inner] == [None] * 3


def test_what_is_cleared_is_not_warned_of(callbacks):
    def make():
        aw = callbacks.new()
        callbacks.add_await(aw, waits())
        callbacks.clear(aw)

    assert warned(make) == []


def test_what_is_queued_afterwards_is(callbacks):
    def make():
        aw = callbacks.new()
        callbacks.clear(aw)
        callbacks.add_await(aw, waits())

    assert warned(make) == [(RuntimeWarning, TEXT)]


def test_warnings_as_errors(callbacks, monkeypatch):
    """(T2.10)"""
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: reported.append(str(it.exc_value)))
    inner = waits()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aw = callbacks.new()
        callbacks.add_await(aw, inner)
        del aw
    assert reported == [TEXT]
    assert inner.cr_frame is None


def test_while_an_exception_is_raised(callbacks):
    """(T2.10)"""

    class Value:
        def __del__(self):
            self.aw = None

    def make():
        value = Value()
        value.aw = callbacks.new()
        callbacks.add_await(value.aw, waits())
        raise LookupError("raised meanwhile")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(LookupError, match="raised meanwhile"):
            make()


def test_closing_what_is_queued_may_fail(callbacks, monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: reported.append(type(it.exc_value)))

    class Coroutine:
        def __await__(self):
            yield

        def send(self, value):
            raise AssertionError

        throw = send

        def close(self):
            raise LookupError

    aw = callbacks.new()
    callbacks.add_await(aw, Coroutine())
    callbacks.clear(aw)
    assert reported == [LookupError]
