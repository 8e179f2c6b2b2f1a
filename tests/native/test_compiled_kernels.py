"""`@hybridloop.kernel()`: kernels that numba compiles."""

import array
import importlib
import inspect
import sys

import pytest

import hybridloop
from hybridloop import KernelExistsError, KernelSignatureError, kernels

from .support import LIMIT, LOOPS, run

pytestmark = pytest.mark.improves_on_asyncio


@pytest.fixture(scope="module")
def numba():
    return pytest.importorskip("numba", reason="numba does not support this Python")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_function_becomes_a_kernel(numba, loop):
    @hybridloop.kernel("f64(f64* values, usize n)")
    def mean(values, n):
        """The mean."""
        return numba.carray(values, n).mean()

    async def main():
        values = array.array("d", [1, 2, 6])
        assert await mean(values, 3) == 3
        assert await mean(values=values, n=2) == 1.5
        assert await hybridloop.run_native(mean.name, values, 1) == 1

    assert isinstance(mean, hybridloop.Kernel)
    assert kernels[mean.name] is not None
    assert mean.name == f"{__name__}.test_a_function_becomes_a_kernel.<locals>.mean"
    assert (mean.signature, mean.doc) == ("f64(f64* values, u64 n)", "The mean.")
    run(main(), LOOPS[loop])


def test_names_of_the_function_and_of_the_signature(numba, name):
    @hybridloop.kernel(
        "bool(out i32* target, usize, f32 by = 2.5, bool = true)", name=name, doc="Fills."
    )
    def fill(target, count, _, flag):
        array = numba.carray(target, count)
        for i in range(count):
            array[i] = _
        return flag

    assert fill.name == name
    assert fill.doc == "Fills."
    assert list(inspect.signature(fill).parameters)[:4] == ["target", "count", "by", "flag"]
    data = array.array("i", [0] * 3)
    assert fill(data, count=2).result(LIMIT) is True
    assert fill(data, 3, by=7, flag=False).result(LIMIT) is False
    assert data.tolist() == [7, 7, 7]


def test_options_of_numba(numba):
    @hybridloop.kernel("f64(f64 x)", error_model="numpy")
    def invert(x):
        return 1 / x

    assert invert(0.0).result(LIMIT) == float("inf")


def test_the_same_function_again(numba, name):
    def compiled(**options):
        @hybridloop.kernel("i64(i64 x)", **options)
        def double(x):
            return 2 * x

        return double

    first, second = compiled(), compiled()
    assert first != second
    assert kernels[first.name] == second
    assert first(2).result(LIMIT) == 4
    compiled(name=name)
    with pytest.raises(KernelExistsError):
        compiled(name=name)
    assert kernels[name] != compiled(name=name, replace=True)
    assert kernels[name](4).result(LIMIT) == 8


def test_a_module_can_be_reloaded(numba, tmp_path, monkeypatch, name):
    module = tmp_path / f"{name}.py"
    source = "import hybridloop\n@hybridloop.kernel('i64(i64 x)')\ndef add(x):\n    return x + {}\n"
    module.write_text(source.format(1))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loaded = importlib.import_module(name)
    try:
        assert loaded.add.name == f"{name}.add"
        assert loaded.add(1).result(LIMIT) == 2
        module.write_text(source.format(20))
        importlib.invalidate_caches()
        assert importlib.reload(loaded).add(1).result(LIMIT) == 21
    finally:
        del sys.modules[name]


def test_what_cannot_be_compiled(numba, name):
    def refused(error, signature, function, match):
        with pytest.raises(error, match=match):
            hybridloop.kernel(signature, name=name)(function)
        assert name not in kernels

    refused(KernelSignatureError, "f64(f64 x", lambda x: x, "f64")
    refused(KernelSignatureError, "f64(f64 x)", lambda x, y: x, "has 2 parameters")
    refused(KernelSignatureError, "f64([f64] x)", lambda x: 1.0, r"not '\[f64\]'")
    refused(KernelSignatureError, "str(f64 x)", lambda x: "", "not 'str'")
    refused(numba.TypingError, "f64(f64 x)", lambda x: x.nothing, "nothing")
    with pytest.raises(TypeError, match="a signature is needed"):
        hybridloop.kernel(lambda x: x)


def test_without_numba(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match="pip install numba"):
        hybridloop.kernel("f64(f64 x)", name=name)(lambda x: x)
    assert name not in kernels
