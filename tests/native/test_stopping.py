"""Built-in kernels whose time an input decides have a limit, or stop when they are asked to."""

import base64
import time

import numpy
import pytest

from .support import LIMIT

pytestmark = pytest.mark.improves_on_asyncio

SALT, OUTPUT = "c29tZXNhbHQ", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI"
BCRYPT = "$2b$%02d$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyzabcde"


def argon2(memory, passes):
    return f"$argon2id$v=19$m={memory},t={passes},p=1${SALT}${OUTPUT}"


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("argon2id.verify", (argon2(64, 2**32 - 1),), "passes: 4294967295.* max_passes.* 16"),
        ("argon2id.verify", (argon2(262145, 1),), "memory: 262145.* max_memory.* 262144"),
        ("argon2id.verify", (argon2(64, 3), 64, 2), "passes: 3.* max_passes.* 2"),
        ("argon2id.verify", (argon2(64, 3), 63), "memory: 64.* max_memory.* 63"),
        ("argon2id.hash", (64, 17), "passes: 17.* max_passes.* 16"),
        ("argon2id.hash", (2**32 - 1,), "memory: 4294967295.* max_memory.* 262144"),
        ("argon2id.hash", (64, 1, 1, 63), "memory: 64.* max_memory.* 63"),
        ("bcrypt.verify", (BCRYPT % 31,), "cost: 31.* max_cost.* 16"),
        ("bcrypt.verify", (BCRYPT % 5, 4), "cost: 5.* max_cost.* 4"),
        ("bcrypt.hash", (31,), "cost: 31.* max_cost.* 16"),
        ("bcrypt.hash", (5, 4), "cost: 5.* max_cost.* 4"),
    ],
)
def test_a_cost_beyond_the_limit_is_refused_by_name(engine, name, args, message):
    with pytest.raises(ValueError, match=message):
        engine.run_native(f"hl.{name}", b"password", *args).result(LIMIT)


def test_limits_are_arguments(engine):
    def call(name, *args):
        return engine.run_native(f"hl.{name}", *args).result(LIMIT)

    hashed = call("argon2id.hash", b"secret", 64, 17, 1, 64, 17)
    assert call("argon2id.verify", b"secret", hashed, 64, 17)
    with pytest.raises(ValueError, match="max_passes"):
        call("argon2id.verify", b"secret", hashed)
    hashed = call("bcrypt.hash", b"secret", 4, 4)
    assert call("bcrypt.verify", b"secret", hashed, 4)
    assert not call("bcrypt.verify", b"Secret", hashed)


@pytest.mark.parametrize("name", ["sort", "argsort"])
def test_sorting_stops_early(engine, name):
    values = numpy.random.default_rng(1).random(6_000_000)

    def seconds(timeout):
        # Of a processor: other programs take none of it.
        begin = time.process_time()
        job = engine.run_native(f"hl.{name}", values, timeout=timeout)
        try:
            job.result(LIMIT)
        except TimeoutError:
            pass
        return time.process_time() - begin

    # Before the first look at the deadline the memory is taken, which is half of it for argsort.
    assert any(seconds(0.001) < 0.75 * seconds(None) for _ in range(10))


@pytest.mark.parametrize("size", [0, 1, 1 << 22, (1 << 22) + 1, 5_000_000])
def test_large_arrays_are_sorted_as_numpy_sorts_them(engine, size):
    values = numpy.random.default_rng(2).integers(0, 1000, size).astype("f8")
    values[::1000] = numpy.nan
    result = engine.run_native("hl.sort", values).result(LIMIT)
    numpy.testing.assert_array_equal(numpy.asarray(result), numpy.sort(values))
    order = engine.run_native("hl.argsort", values).result(LIMIT)
    numpy.testing.assert_array_equal(numpy.asarray(order), numpy.argsort(values, kind="stable"))


@pytest.mark.parametrize("size", [196_607, 196_608, 196_609, 500_000])
def test_base64_of_many_parts(engine, size):
    data = numpy.random.default_rng(3).bytes(size)
    text = engine.run_native("hl.base64.encode", data).result(LIMIT)
    assert text == base64.b64encode(data)
    assert engine.run_native("hl.base64.decode", text).result(LIMIT) == data
    part = base64.b64encode(bytes(196_607))
    for bad in [part + part, b"=" + bytes(text), bytes(text)[:-1] + b" "]:
        with pytest.raises(ValueError):
            engine.run_native("hl.base64.decode", bad).result(LIMIT)


@pytest.mark.parametrize("size", [262_144, 600_000])
def test_long_digests_are_compared_to_the_end(engine, size):
    one, other = bytes(size), bytes(size - 1) + b"1"
    for a, b, equal in [(one, one, True), (one, other, False), (one, one[1:], False)]:
        assert engine.run_native("hl.compare_digest", a, b).result(LIMIT) is equal
