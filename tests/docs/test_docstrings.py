"""Whatever the package exports says what it is, in `help()` too."""

import inspect

import pytest

import hybridloop
from hybridloop import cluster, generators, metrics, parallel

MODULES = [hybridloop, parallel, generators, metrics, cluster]
EXPORTED = [
    pytest.param(getattr(module, name), id=f"{module.__name__}.{name}")
    for module in MODULES
    for name in module.__all__
    if not name.startswith("__")
]


@pytest.mark.parametrize("exported", EXPORTED)
def test_is_described(exported):
    assert (inspect.getdoc(exported) or "").strip()
    if not isinstance(exported, type):
        return
    inherited = {name for base in exported.__mro__[1:] for name in vars(base)}
    for name, attribute in vars(exported).items():
        if name.startswith("_") or name in inherited or not own(exported, attribute):
            continue
        assert (inspect.getdoc(attribute) or "").strip(), name


def own(cls, attribute):
    """Whether it is a method or a property; what describes fields is in the source alone."""
    if isinstance(attribute, property) or inspect.isgetsetdescriptor(attribute):
        return True
    return callable(attribute) or isinstance(attribute, (classmethod, staticmethod))


def test_defaults_that_stand_for_nothing_read_well():
    for exported in (
        parallel.call_from_main_thread,
        parallel.map_reduce,
        hybridloop.Engine.map_reduce,
    ):
        assert "object at 0x" not in str(inspect.signature(exported))
