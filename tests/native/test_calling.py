"""Calling kernels: on any running loop, with arguments by name, and with useful errors."""

import array
import asyncio
import inspect
import pickle
import typing
import zlib

import pytest

import hybridloop
from hybridloop import kernels, register_kernel, run_native, run_native_many
from hybridloop._core import NativeEngine

from .support import LIMIT, LOOPS, run

pytestmark = pytest.mark.improves_on_asyncio


@pytest.fixture
def fma(name):
    """`x * y + z`"""
    signature = "f64(f64 x, f64 y = 2, f64 z = 3)"
    return register_kernel(name, ("libm.so.6", "fma"), signature)


@pytest.fixture
def clear(name):
    """Writes `n` zeros."""
    return register_kernel(name, ("libc.so.6", "bzero"), "void(out u8* target, usize n)")


@pytest.mark.parametrize("loop", LOOPS)
def test_kernels_run_on_any_loop(loop):
    crc32 = kernels["hl.crc32"]

    async def main():
        assert await run_native("hl.crc32", b"x") == zlib.crc32(b"x")
        assert await run_native(crc32, b"x", timeout=LIMIT) == zlib.crc32(b"x")
        assert await crc32(b"x", 5) == zlib.crc32(b"x", 5)
        assert await run_native_many(crc32, [(b"x",), (b"y", 5)]) == [
            zlib.crc32(b"x"),
            zlib.crc32(b"y", 5),
        ]
        job = crc32(b"x", priority=1)
        assert isinstance(job, hybridloop.NativeJob)
        assert job.get_loop() is asyncio.get_running_loop()
        assert await asyncio.gather(job, crc32(b"y")) == [zlib.crc32(b"x"), zlib.crc32(b"y")]

    run(main(), LOOPS[loop])


def test_a_thread_without_a_loop_waits_for_the_result():
    assert run_native("hl.crc32", b"x").result(LIMIT) == zlib.crc32(b"x")
    assert run_native_many("hl.crc32", [(b"x",)]).result(LIMIT) == [zlib.crc32(b"x")]
    assert kernels["hl.crc32"](b"x").result(LIMIT) == zlib.crc32(b"x")


def test_the_engine_of_a_loop_runs_its_kernels():
    mine = NativeEngine(native_threads=1)

    async def main():
        asyncio.get_running_loop().native_engine = mine
        await kernels["hl.noop"]()
        await run_native("hl.noop")
        await run_native_many("hl.noop", [(), ()])

    run(main())
    assert mine.close(LIMIT) == []
    assert mine.stats()["done"] == 4

    async def other():
        await run_native("hl.noop")

    with hybridloop.Engine(gil_threads=1, native_threads=1) as engine:
        engine.spawn(other()).result(LIMIT)
        assert engine.native_engine.stats()["done"] == 1


def test_arguments_by_name(fma, engine):
    assert fma(5.0).result(LIMIT) == 13
    assert fma(x=5).result(LIMIT) == 13
    assert fma(5, z=10).result(LIMIT) == 20
    assert fma(z=10, x=5).result(LIMIT) == 20
    assert fma(z=1, y=3, x=5, priority=2).result(LIMIT) == 16
    assert engine.run_native(fma.name, 5, z=10).result(LIMIT) == 20

    async def main():
        assert await asyncio.get_running_loop().run_native(fma, y=1, x=1) == 4

    run(main())
    with hybridloop.Engine(native_threads=1) as threads:
        assert threads.run_native(fma, 5, z=10).result(LIMIT) == 20


def test_the_written_parameter_by_name_and_by_out(clear):
    for call in (
        lambda data: clear(data, 2),
        lambda data: clear(data, n=2),
        lambda data: clear(n=2, target=data),
        lambda data: clear(2, out=data),
        lambda data: clear(n=2, out=data),
    ):
        data = bytearray(b"abc")
        call(data).result(LIMIT)
        assert data == b"\0\0c"
    with pytest.raises(TypeError, match="multiple values for argument 'target'"):
        clear(target=bytearray(1), out=bytearray(1), n=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fma: fma(1, w=2), "{}() got an unexpected keyword argument 'w'"),
        (
            lambda fma: fma(1, timeouts=2),
            "{}() got an unexpected keyword argument 'timeouts'. Did you mean 'timeout'?",
        ),
        (lambda fma: fma(1, x=2), "{}() got multiple values for argument 'x'"),
        (lambda fma: fma(y=1), "{}(): argument 'x' is missing"),
        (lambda fma: fma(), "{}(): argument 'x' is missing"),
        (lambda fma: fma(1, 2, 3, 4, z=5), "{}() takes at most 3 arguments, got 5"),
        (lambda fma: fma(1, z="5"), "{}(): argument 'z': expected f64, got str"),
    ],
)
def test_arguments_that_do_not_fit(fma, call, message):
    with pytest.raises(TypeError) as caught:
        call(fma)
    assert str(caught.value) == message.format(fma.name)


def test_a_similar_name_is_suggested():
    for look_up in (
        kernels.__getitem__,
        run_native,
        NativeEngine().run_native,
        lambda name: run_native_many(name, []),
    ):
        with pytest.raises(KeyError) as caught:
            look_up("hl.sha25")
        assert isinstance(caught.value, hybridloop.KernelNotFoundError)
        assert caught.value.name == "hl.sha25"
        assert str(caught.value) == "no kernel is named 'hl.sha25'. Did you mean 'hl.sha256'?"
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (copy.name, str(copy)) == (caught.value.name, str(caught.value))
    with pytest.raises(LookupError, match="'qqqqqq'; hybridloop.kernels has those there are"):
        kernels["qqqqqq"]
    assert kernels.get("hl.sha25") is None
    with (
        hybridloop.Engine(native_threads=1) as engine,
        pytest.raises(LookupError, match="Did you mean 'hl.sha256'?"),
    ):
        engine.map("hl.sha25", [b"x"])


def test_a_parameter_with_the_name_of_an_option():
    with pytest.raises(TypeError, match="argument 'key' has to be given by position"):
        run_native("hl.bus.discard", key="x")
    assert run_native("hl.bus.discard", "no such key", key="result").result(LIMIT) is False


def parameters(signature):
    return [
        (parameter.name, parameter.kind.name, parameter.annotation, parameter.default)
        for parameter in signature.parameters.values()
    ]


def test_signatures(fma, name):
    signature = inspect.signature(fma)
    empty = inspect.Parameter.empty
    assert parameters(signature)[:3] == [
        ("x", "POSITIONAL_OR_KEYWORD", float, empty),
        ("y", "POSITIONAL_OR_KEYWORD", float, 2.0),
        ("z", "POSITIONAL_OR_KEYWORD", float, 3.0),
    ]
    options = ["key", "timeout", "priority", "on_progress", "cancel_policy"]
    assert list(signature.parameters)[3:] == options
    assert typing.get_args(signature.return_annotation) == (float,)
    assert signature.bind(1, z=2, timeout=3).arguments == {"x": 1, "z": 2, "timeout": 3}
    # The option key= hides the parameter key.
    discard = inspect.signature(kernels["hl.bus.discard"])
    assert parameters(discard)[0] == ("key_", "POSITIONAL_ONLY", str | bytes, empty)
    odd = register_kernel(f"{name}.odd", ("libm.so.6", "fma"), "f64(f64 x, f64 lambda, f64 z = 1)")
    assert [found[:2] for found in parameters(inspect.signature(odd))[:3]] == [
        ("x", "POSITIONAL_ONLY"),
        ("lambda_", "POSITIONAL_ONLY"),
        ("z", "POSITIONAL_OR_KEYWORD"),
    ]
    assert odd(1, **{"lambda": 5}).result(LIMIT) == 6
    for kernel in kernels.values():
        assert inspect.signature(kernel).parameters


def test_the_signature_of_a_kernel_without_one(job_kernels):
    kernel = next(kernel for kernel in kernels.values() if kernel.signature is None)
    assert list(inspect.signature(kernel).parameters)[:2] == ["args", "out"]
    with pytest.raises(TypeError, match="no arguments by name, because it has no signature"):
        kernel(x=1)


def test_a_kernel_as_an_object():
    crc32 = kernels["hl.crc32"]
    assert callable(crc32)
    assert crc32.__name__ == "hl.crc32"
    assert typing.get_args(hybridloop.Kernel[..., int]) == (..., int)
    values = array.array("d", [3, 1, 2])
    assert kernels["hl.sort"](values=values).result(LIMIT).tolist() == [1, 2, 3]
    # Options do not hide the dictionary that the caller passes.
    options = {"data": b"x", "start": 5}
    assert crc32(**options).result(LIMIT) == zlib.crc32(b"x", 5)
    assert options == {"data": b"x", "start": 5}
