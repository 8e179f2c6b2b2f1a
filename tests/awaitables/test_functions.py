"""`hybridloop.AsyncFunction`: functions and methods of tables."""

import asyncio
import copy
import functools
import gc
import inspect
import pickle
import sys
import types
import unittest.mock
import warnings
import weakref

import pytest

import hybridloop

from .support import finish

pytestmark = pytest.mark.improves_on_asyncio


@pytest.fixture(scope="module")
def functions(extension):
    return extension("functions")


@pytest.fixture(autouse=True)
def nothing_stays(functions):
    yield
    gc.collect()
    assert functions.live() == 0


async def gives(value):
    await asyncio.sleep(0)
    return value


async def test_a_function(loop, functions):
    assert await functions.pair(gives(1)) == (1, None)
    assert await functions.pair(gives(1), 2) == (1, 2)
    assert await functions.pair(gives(1), b=2) == (1, 2)


async def test_a_method(loop, functions):
    thing = functions.Thing()
    assert await thing.get(gives(1)) == (1, thing)
    bound = thing.get
    assert isinstance(bound, types.MethodType)
    assert bound.__self__ is thing
    assert await bound(gives(2)) == (2, thing)
    assert await functions.Thing.get(thing, gives(3)) == (3, thing)

    class Below(functions.Thing):
        async def get(self, a):
            return await super().get(a)

    thing = Below()
    assert await thing.get(gives(4)) == (4, thing)


def test_wrong_arguments_are_an_error_of_the_call(functions):
    """Nothing warns of a coroutine that was never awaited."""
    inner = gives(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (
            lambda: functions.pair(),
            lambda: functions.pair(1, 2, 3),
            lambda: functions.pair(inner, c=1),
            lambda: functions.nothing(1),
            lambda: functions.nothing(a=1),
            lambda: functions.Thing().get(),
            lambda: functions.Thing.get(),
            lambda: functions.Thing.get(1, inner),
        ):
            with pytest.raises(TypeError):
                call()
    inner.close()


@pytest.mark.parametrize(
    ("args", "text"), [((), "error without an exception"), ((1,), "an exception is set")]
)
def test_a_faulty_init(functions, args, text):
    with pytest.raises(SystemError, match=text):
        functions.faulty(*args)


def test_without_init(functions):
    assert finish(functions.nothing()) is None


def test_the_names(functions):
    pair, get = functions.pair, functions.Thing.get
    assert isinstance(pair, hybridloop.AsyncFunction)
    assert (pair.__name__, pair.__qualname__, pair.__module__) == ("pair", "pair", "functions")
    assert (get.__name__, get.__qualname__, get.__module__) == ("get", "Thing.get", "functions")
    assert pair.__doc__ == "Await a; give its result and b."
    assert functions.nothing.__doc__ == "Give nothing."
    assert functions.named.__doc__ is None
    assert repr(pair) == "<async function pair>"
    for call, name in [
        (functions.nothing(), "nothing"),
        (functions.named(1), "somewhere.named"),
        (functions.Thing().get(1), "Thing.get"),
    ]:
        assert call.__qualname__ == name
        call.close()


def test_the_signatures(functions):
    assert str(inspect.signature(functions.pair)) == "(a, /, b=None)"
    assert str(inspect.signature(functions.Thing.get)) == "(self, a, /)"
    assert str(inspect.signature(functions.Thing().get)) == "(a, /)"
    # There is none in the documentation.
    assert str(inspect.signature(functions.nothing)) == "(*args, **kwargs)"


def is_async(function):
    return inspect.iscoroutinefunction(function), inspect.isasyncgenfunction(function)


def test_what_inspect_says(functions):
    """(T2.9)"""
    thing = functions.Thing()
    for function in (
        functions.pair,
        functions.nothing,
        functions.Thing.get,
        thing.get,
        functools.partial(functions.pair, 1),
    ):
        assert is_async(function) == (True, False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            assert asyncio.iscoroutinefunction(function)
    for function in (functions.numbers, functions.Thing.items, thing.items):
        assert is_async(function) == (False, True)
    assert is_async(functions.live) == (False, False)
    assert isinstance(unittest.mock.create_autospec(functions.pair), unittest.mock.AsyncMock)


def test_pickle_and_copy(functions, monkeypatch):
    monkeypatch.setitem(sys.modules, "functions", functions)
    for function in (functions.pair, functions.Thing.get):
        assert pickle.loads(pickle.dumps(function)) is function
        assert copy.deepcopy(function) is function
        assert copy.copy(function) is function


def test_wrong_tables(functions):
    module = types.ModuleType("module")
    with pytest.raises(ValueError, match="table of functions is NULL"):
        functions.refused(module, 0)
    with pytest.raises(ValueError, match="hla_spec is NULL"):
        functions.refused(module, 1)
    for owner, which in [(1, 2), (1, 3), (int, 3)]:
        with pytest.raises(TypeError):
            functions.refused(owner, which)


async def test_other_modules_and_classes(loop, functions):
    module = types.ModuleType("other")
    functions.refused(module, 2)
    assert module.pair.__module__ == "other"
    assert await module.pair(gives(1)) == (1, None)

    class Python:
        pass

    functions.refused(Python, 3)
    python = Python()
    assert await python.get(gives(1)) == (1, python)
    assert Python.get.__qualname__.endswith("Python.get")


def test_a_module_with_functions_is_collected(functions):
    module = types.ModuleType("other")
    functions.refused(module, 2)
    gone = weakref.ref(module.pair)
    del module
    gc.collect()
    assert gone() is None


def test_attributes_cannot_be_set(functions):
    with pytest.raises(AttributeError):
        functions.pair.__name__ = "other"
    with pytest.raises(TypeError):
        hybridloop.AsyncFunction.__name__ = "other"
    with pytest.raises(TypeError):
        hybridloop.AsyncFunction()
