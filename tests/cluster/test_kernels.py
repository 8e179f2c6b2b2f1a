"""Kernels on workers do what they do in this process."""

import array
import asyncio

import numpy
import pytest

import hybridloop
from hybridloop.cluster import KernelMismatchError

from .support import connected, outcome

DATA = bytes(range(256)) * 100
NUMBERS = numpy.random.default_rng(7).random(5000)

# Arguments that return the same each time, of all kernels but those that make random salts.
ARGUMENTS = {
    "hl.argon2id.verify": (b"password", "not a hash"),
    "hl.argsort": (NUMBERS,),
    "hl.base64.decode": (b"aGVsbG8=",),
    "hl.base64.encode": (DATA, True),
    "hl.bcrypt.verify": (b"password", "not a hash"),
    "hl.blake3": (DATA,),
    "hl.bus.discard": ("no such key",),
    "hl.compare_digest": (DATA, bytearray(DATA)),
    "hl.crc32": (DATA, 7),
    "hl.dot": (NUMBERS, NUMBERS[::-1].copy()),
    "hl.gzip.compress": (DATA,),
    "hl.gzip.decompress": (b"",),
    "hl.histogram": (NUMBERS, 10, 0.0, 1.0),
    "hl.lz4.compress": (DATA,),
    "hl.lz4.decompress": (b"",),
    "hl.noop": (),
    "hl.sha256": (DATA,),
    "hl.sleep": (0.001,),
    "hl.sort": (NUMBERS.astype("f4"),),
    "hl.spin": (0.001,),
    "hl.sum": (NUMBERS,),
    "hl.zlib.compress": (DATA, 9),
    "hl.zlib.decompress": (b"",),
    "hl.zstd.compress": (DATA,),
    "hl.zstd.decompress": (b"",),
}
CHEAP_HASHES = {
    "hl.argon2id.hash": (b"password", 64, 1),
    "hl.bcrypt.hash": (b"password", 4),
}
LANES = pytest.mark.parametrize("options", [{}, {"retries": 0}], ids=["direct", "scheduled"])


def in_detail(value):
    """A value with what a buffer says about itself."""
    if not hasattr(value, "nbytes"):
        return type(value), value
    view = memoryview(value)
    return view.format, view.shape, view.readonly, view.tobytes()


@LANES
async def test_each_built_in_kernel_gives_the_local_result(loop, dask, options):
    built_in = {name for name in hybridloop.kernels if name.startswith("hl.")}
    assert ARGUMENTS.keys() | CHEAP_HASHES.keys() == built_in
    engine = hybridloop.NativeEngine(native_threads=1)
    async with connected(dask) as cluster:
        assert built_in <= cluster.kernels.keys()
        for name, arguments in ARGUMENTS.items():
            here = await outcome(engine.run_native(name, *arguments))
            there = await outcome(cluster.run_native(name, *arguments, **options))
            assert in_detail(there) == in_detail(here), name
        for name, arguments in CHEAP_HASHES.items():
            hashed = await cluster.run_native(name, *arguments, **options)
            verify = name.replace("hash", "verify")
            assert await engine.run_native(verify, b"password", hashed) is True
            assert await cluster.run_native(verify, b"password", hashed, **options) is True
        for name in ("gzip", "lz4", "zlib", "zstd"):
            compressed = await cluster.run_native(f"hl.{name}.compress", DATA, **options)
            back = await cluster.run_native(f"hl.{name}.decompress", compressed, **options)
            assert back == DATA
    engine.close()


@LANES
async def test_errors_keep_type_and_text(loop, dask, libraries, options):
    calls = [
        ("hl.crc32", b"", -1),
        ("hl.crc32", b"", 1 << 64),
        ("hl.crc32", b"", 1 << 70),
        ("hl.sum",),
        ("hl.sum", 5),
        ("hl.sha256", "text"),
        ("hl.zstd.decompress", b"damaged"),
        ("hl.sum", numpy.arange(3, dtype=">f8")),
        ("hl.sum", numpy.arange(3, dtype="f2")),
        ("hl.sum", numpy.arange(6.0)[::2]),
        ("hl.argon2id.hash", b"", 1 << 30),
        *(("jobs.fails", code) for code in (1, -1, -2, -3, -4, -5, -6, -7, -8, -9, 12345)),
        ("jobs.memory", 1 << 60),
    ]
    engine = hybridloop.NativeEngine(native_threads=1)
    async with connected(dask, libraries=libraries) as cluster:
        for name, *arguments in calls:

            async def here(name=name, arguments=arguments):
                return await engine.run_native(name, *arguments)

            async def there(name=name, arguments=arguments):
                return await cluster.run_native(name, *arguments, **options)

            assert await ended(there()) == await ended(here()), (name, arguments)
        with pytest.raises(hybridloop.NativeKernelError) as caught:
            await cluster.run_native("jobs.fails", 7, **options)
        assert (caught.value.code, caught.value.kernel) == (7, "jobs.fails")
    engine.close()


async def ended(coroutine):
    """As `outcome()`, also for a kernel that says that it was cancelled."""
    task = asyncio.ensure_future(outcome(coroutine))
    await asyncio.wait([task])
    return "cancelled" if task.cancelled() else task.result()


@LANES
async def test_buffers_keep_format_and_shape(loop, dask, libraries, options):
    buffers = [
        b"",
        b"small",
        bytearray(b"x" * 10_000),
        memoryview(DATA)[5:-5],
        array.array("i", [1, -2, 3]),
        array.array("d", [0.5] * 3000),
        numpy.arange(24, dtype="i2").reshape(2, 3, 4),
        numpy.arange(10_000, dtype="u8").reshape(100, 100),
        numpy.array(2.5),
        numpy.zeros(0),
        numpy.arange(5) > 2,
    ]
    engine = hybridloop.NativeEngine(native_threads=1)
    buffers.append(await engine.run_native("hl.sort", NUMBERS))
    async with connected(dask, libraries=libraries) as cluster:
        for buffer in buffers:
            back = await cluster.run_native("jobs.copy", buffer, **options)
            assert back.readonly
            here = await engine.run_native("jobs.copy", buffer)
            assert (back.format, back.shape) == (here.format, here.shape)
            assert back.tobytes() == here.tobytes()
            assert numpy.asarray(back).flags.aligned
    engine.close()


async def test_arguments_that_follow_each_other_are_aligned(loop, dask):
    # Together in one message, where each begins anywhere.
    for length in (1, 3, 5, 8):
        first = numpy.arange(600 + length, dtype="f8")
        async with connected(dask) as cluster:
            for _ in range(3):
                odd = bytes(5000 + length)
                calls = [(odd,)] * length
                assert await cluster.run_native_many("hl.crc32", calls)
                assert await cluster.run_native("hl.dot", first, first) == float(first @ first)


@LANES
async def test_scalars(loop, dask, libraries, options):
    class Index:
        def __index__(self):
            return 5

    async with connected(dask, libraries=libraries) as cluster:
        for value, kind in [
            (None, "none"),
            (True, "bool"),
            (-1, "i64"),
            (1 << 63, "u64"),
            (0.5, "f64"),
            ("text", "str"),
            (b"data", "buf"),
            (numpy.float64(1), "f64"),
            (numpy.int32(1), "i64"),
            (Index(), "i64"),
        ]:
            assert await cluster.run_native("jobs.kind", value, **options) == kind, value
        assert await cluster.run_native("jobs.bits.i64", Index(), **options) == 5
        assert (
            await cluster.run_native("jobs.bits.u64", numpy.uint64(1 << 63), **options) == 1 << 63
        )


async def test_what_cannot_hold_is_refused_with_the_reason(loop, dask, libraries):
    target = bytearray(8)
    channel = hybridloop.Channel()
    async with connected(dask, libraries=libraries) as cluster:
        with pytest.raises(TypeError, match="cannot write to the memory of this process"):
            cluster.run_native("hl.sort", NUMBERS, out=target)
        with pytest.raises(TypeError, match="cannot write to the memory of this process"):
            cluster.run_native("jobs.increment", target)
        with pytest.raises(TypeError, match="a bus of its own.* put()"):
            cluster.run_native("hl.sort", NUMBERS, key="k")
        with pytest.raises(TypeError, match="a bus of its own"):
            _ = cluster.bus
        with pytest.raises(TypeError, match="cancel it a second time"):
            cluster.run_native("hl.noop", cancel_policy="detach")
        await cluster.run_native("hl.noop", cancel_policy="wait", out=None)
        with pytest.raises(TypeError, match="at least once"):
            cluster.run_native("hl.noop", exactly_once=True)
        with pytest.raises(TypeError, match="a channel is memory of this process"):
            cluster.run_native("jobs.push", channel, 1)
        with pytest.raises(TypeError, match="call 1: jobs.push: a channel"):
            cluster.run_native_many("jobs.push", [(1, 1), (channel, 1)])
        with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
            cluster.run_native("hl.noop", speed=1)
        with pytest.raises(TypeError, match="got object"):
            cluster.run_native("hl.sum", object())
        with pytest.raises(TypeError, match="elements of format"):
            cluster.run_native("hl.sum", numpy.zeros(3, dtype="i4,f8"))
        with pytest.raises(ValueError, match="retries must be at least 0"):
            cluster.run_native("hl.noop", retries=-1)
        with pytest.raises(LookupError, match="no kernel is named 'no.such'"):
            cluster.run_native("no.such")
        assert cluster.stats().running == cluster.stats().waiting == 0


async def test_a_kernel_object_must_be_what_the_workers_have(loop, dask, libraries):
    expected = r"worker tcp://\S+: jobs.count has the signature 'i64\(\)', not 'f64\(f64\)'"
    async with connected(dask, libraries=libraries) as cluster:
        assert await cluster.run_native(hybridloop.kernels["hl.crc32"], b"x") > 0
        assert await cluster.run_native(cluster.kernels["hl.crc32"], b"x") > 0
        other = hybridloop.register_kernel(
            "jobs.count", ("libm.so.6", "cbrt"), "f64(f64)", replace=True
        )
        try:
            with pytest.raises(KernelMismatchError, match=expected):
                cluster.run_native(other, 1.0)
            # Another connection does not begin with it.
            with pytest.raises(KernelMismatchError, match=expected):
                async with connected(dask, libraries=libraries):
                    pass
        finally:
            hybridloop.load_kernels(libraries[0], replace=True)
