"""Errors belong to families and say what they are about; objects of the engine are not pickled."""

import copy
import pickle
import sys
import time

import pytest

import hybridloop
from hybridloop import (
    BufferInUseError,
    BusError,
    BusKeyError,
    Channel,
    EngineClosedError,
    NativeClosedError,
    NativeQueueFullError,
)
from hybridloop._core import NativeEngine

from .support import LIMIT

pytestmark = pytest.mark.improves_on_asyncio


@pytest.mark.parametrize("key", ["missing", b"missing", "", "k" * 256, "job:1:x"])
def test_errors_of_keys_are_one_family_and_say_the_key(bus, key):
    submit = bus.get if key in ("missing", b"missing") else lambda key: bus.push(key, b"")
    for family in (KeyError, BusKeyError, BusError, ValueError):
        with pytest.raises(family) as caught:
            submit(key)
    assert caught.value.key == key
    assert repr(key)[:200] in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.key, again.args) == (str(caught.value), key, (key,))


def test_a_closed_engine_is_one_family():
    assert issubclass(NativeClosedError, EngineClosedError)
    engine = NativeEngine(native_threads=1)
    engine.close()
    for submit in [engine.run_native, lambda name: engine.run_native_many(name, [()])]:
        with pytest.raises(EngineClosedError):
            submit("hl.noop")


def test_the_key_of_a_result_is_refused_as_that_of_a_push(engine):
    for key in ["job:1:mine", b"job:", "", "k" * 256]:
        with pytest.raises(BusKeyError) as pushed:
            engine.bus.push(key, b"")
        with pytest.raises(BusKeyError) as caught:
            engine.run_native("hl.noop", key=key)
        assert str(caught.value) == str(pushed.value)
    engine.run_native("hl.crc32", b"", key="jobs").result(LIMIT)
    assert "jobs" in engine.bus


def test_errors_of_a_batch_say_which_call(engine, single):
    data = bytearray(10)
    good = (b"data",)
    for error, words, bad in [
        (TypeError, "call 2: .*'data'.* got object", (object(),)),
        (TypeError, "call 2: .*'data'.* got int", (1,)),
        (TypeError, "call 2: expected a tuple", 1),
        (TypeError, "call 2: .* missing", ()),
        (TypeError, "call 2: .* at most 2 arguments", (b"", 1, 2)),
        (OverflowError, "call 2: .*'start'", (b"", 2**32)),
        (OverflowError, "call 2: .*'start'", (b"", 2**64)),
    ]:
        with pytest.raises(error, match=words):
            engine.run_native_many("hl.crc32", [good, good, bad, good])
    with pytest.raises(NativeQueueFullError, match="for 4 calls: 0 .* limit is 3"):
        single.run_native_many("hl.crc32", [good] * 4)
    batch = engine.run_native_many("hl.zlib.decompress", [(b"x\x9c\x03\0\0\0\0\x01",), good])
    with pytest.raises(ValueError, match="zlib") as caught:
        batch.result(LIMIT)
    assert caught.value.__notes__ == ["call 1 of the batch"]
    assert data == bytes(10)


@pytest.mark.usefixtures("job_kernels")
def test_a_buffer_in_use_says_which_call(engine):
    with pytest.raises(BufferInUseError, match="call 1: 'data'"):
        data = bytearray(1)
        engine.run_native_many("jobs.increment", [(data,), (data,)])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_of_the_engine_refuse_pickling(engine, protocol):
    job = engine.run_native("hl.sha256", b"")
    batch = engine.run_native_many("hl.noop", [()])
    objects = [engine, engine.bus, job, batch, job.result(LIMIT), Channel()]
    objects += [hybridloop.kernels["hl.noop"], aiter(job), job.progress()]
    for it in objects:
        with pytest.raises(TypeError, match=f"cannot pickle '.*{type(it).__name__}'"):
            pickle.dumps(it, protocol)
        with pytest.raises(TypeError, match="cannot pickle"):
            copy.copy(it)
    batch.result(LIMIT)


@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="threads run at any time without a global interpreter lock",
)
def test_making_an_error_does_not_give_the_interpreter_away(engine, ticks):
    """A thread that finalizes it could take it, and a daemon thread would not get it back."""
    # Whether the other thread takes it when it is given away for a moment is a matter of chance.
    for _ in range(10):
        jobs = [engine.run_native("hl.zlib.decompress", b"no zlib") for _ in range(4000)]
        jobs[-1].exception(LIMIT)
        deadline = time.monotonic() + LIMIT
        while engine.stats()["running"] or engine.stats()["queued"]:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        before = len(ticks)
        for job in jobs:
            assert isinstance(job.exception(), ValueError)
        assert len(ticks) == before
