"""Every public method takes what the running Python's asyncio takes."""

import asyncio
import inspect

import pytest

METHODS = sorted(
    name
    for name, member in inspect.getmembers(asyncio.SelectorEventLoop, callable)
    if not name.startswith("_")
)


@pytest.mark.parametrize("name", METHODS)
def test_signature(loop, name):
    """Without ``self``, which is positional-only in native methods."""
    ours = inspect.signature(getattr(loop, name))
    stock = inspect.signature(getattr(asyncio.SelectorEventLoop, name).__get__(loop))
    found = shape(ours)
    if found and found[-1][1] is inspect.Parameter.VAR_KEYWORD and found[-1] not in shape(stock):
        # What a later asyncio adds is passed on.
        del found[-1]
    # Some releases of asyncio declare another signature than they implement, of create_task().
    declared = inspect.signature(getattr(asyncio.AbstractEventLoop, name).__get__(loop))
    assert found in (shape(stock), shape(declared))


def shape(signature):
    return [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in signature.parameters.values()
    ]


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_documentation(loop, name):
    if getattr(asyncio.SelectorEventLoop, name).__doc__:
        assert getattr(type(loop), name).__doc__
