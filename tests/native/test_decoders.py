"""Decoders refuse what their reference tools refuse, and join what these join."""

import base64
import binascii
import gzip
import importlib
import shutil
import struct
import subprocess
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybridloop._core import NativeEngine

from .support import LIMIT

pytestmark = pytest.mark.improves_on_asyncio

CODECS = ["zstd", "lz4", "gzip", "zlib"]
FRAMES = ["zstd", "lz4", "gzip"]
BOUNDED = settings(max_examples=60, deadline=None)
DATA = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda part, count: part * count, st.binary(max_size=40), st.integers(0, 400)),
)


@pytest.fixture(scope="module")
def call():
    engine = NativeEngine(native_threads=1)

    def call(name, *args):
        return bytes(engine.run_native(f"hl.{name}", *args).result(LIMIT))

    yield call
    assert engine.close(LIMIT) == []


@pytest.mark.parametrize("codec", CODECS)
@given(data=DATA)
@BOUNDED
def test_what_was_compressed_comes_back(call, codec, data):
    assert call(f"{codec}.decompress", call(f"{codec}.compress", data)) == data


@pytest.mark.parametrize("codec", CODECS)
@given(data=DATA)
@settings(max_examples=15, deadline=None)
def test_every_beginning_of_a_frame_is_refused(call, codec, data):
    frame = call(f"{codec}.compress", data)
    for end in range(len(frame)):
        with pytest.raises(ValueError):
            call(f"{codec}.decompress", frame[:end])


@pytest.mark.parametrize("codec", CODECS)
@given(data=DATA, place=st.integers(0), bit=st.integers(0, 7))
@BOUNDED
def test_a_flipped_bit_never_changes_the_data(call, codec, data, place, bit):
    frame = bytearray(call(f"{codec}.compress", data))
    frame[place % len(frame)] ^= 1 << bit
    try:
        assert call(f"{codec}.decompress", frame) == data
    except (ValueError, MemoryError):
        pass


@pytest.mark.parametrize("codec", CODECS)
@given(data=DATA, garbage=st.binary(min_size=1, max_size=20))
@example(data=b"data", garbage=b"1")
@example(data=b"", garbage=b"1234")
@BOUNDED
def test_garbage_behind_a_frame_is_refused(call, codec, data, garbage):
    frame = call(f"{codec}.compress", data)
    if codec == "gzip" and not garbage.strip(b"\0"):
        assert call("gzip.decompress", frame + garbage) == data
        return
    with pytest.raises(ValueError):
        call(f"{codec}.decompress", frame + garbage)


@pytest.mark.parametrize("codec", CODECS)
@given(garbage=st.binary(max_size=60))
@example(garbage=b"1234")
@example(garbage=b"")
@BOUNDED
def test_garbage_is_refused(call, codec, garbage):
    with pytest.raises(ValueError):
        call(f"{codec}.decompress", garbage)


@pytest.mark.parametrize("codec", FRAMES)
@given(parts=st.lists(DATA, min_size=1, max_size=5))
@BOUNDED
def test_frames_are_joined(call, codec, parts):
    frames = b"".join(call(f"{codec}.compress", part) for part in parts)
    assert call(f"{codec}.decompress", frames) == b"".join(parts)


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_skippable_frames_are_skipped(call, codec):
    skipped = struct.pack("<II", 0x184D2A53, 5) + b"notes"
    frame = call(f"{codec}.compress", b"data")
    for frames in [skipped + frame, frame + skipped, skipped * 2 + frame + frame]:
        assert call(f"{codec}.decompress", frames) == b"data" * frames.count(frame)
    with pytest.raises(ValueError):
        call(f"{codec}.decompress", frame + skipped[:-1])


def test_legacy_lz4_frames_end_with_the_data(call):
    block = b"\x40data"
    frame = struct.pack("<II", 0x184C2102, len(block)) + block
    assert call("lz4.decompress", frame) == b"data"
    for end in range(5, len(frame)):
        with pytest.raises(ValueError):
            call("lz4.decompress", frame[:end])


def test_zlib_and_gzip_agree_with_the_standard_library(call):
    data = bytes(range(256)) * 1000
    assert zlib.decompress(call("zlib.compress", data)) == data
    assert gzip.decompress(call("gzip.compress", data)) == data
    assert call("gzip.decompress", gzip.compress(data) * 2 + bytes(512)) == data * 2
    assert call("zlib.decompress", zlib.compress(data)) == data


@pytest.mark.parametrize("codec", FRAMES)
def test_reference_tools_read_what_is_written(call, codec):
    tool = shutil.which(codec)
    if tool is None:
        pytest.skip(f"no {codec}")
    data = bytes(range(256)) * 5000
    for part in [data, b"", b"x"]:
        frame = call(f"{codec}.compress", part)
        command = [tool, "-dc"]
        done = subprocess.run(command, input=frame, capture_output=True, check=True)
        assert done.stdout == part
        if part and codec != "gzip":
            damaged = bytearray(frame)
            damaged[-1] ^= 1
            assert subprocess.run(command, input=damaged, capture_output=True).returncode
        packed = subprocess.run([tool, "-c"], input=part, capture_output=True, check=True).stdout
        assert call(f"{codec}.decompress", packed) == part


@given(data=DATA, garbage=st.binary(min_size=1, max_size=20))
@BOUNDED
def test_base64_is_strict(call, data, garbage):
    text = call("base64.encode", data)
    assert text == base64.b64encode(data)
    assert call("base64.decode", text) == data
    try:
        expected = base64.b64decode(garbage, validate=True)
    except binascii.Error:
        expected = None
    if expected is None or base64.b64encode(expected) != garbage:
        with pytest.raises(ValueError):
            call("base64.decode", garbage)
    else:
        assert call("base64.decode", garbage) == expected


@pytest.mark.parametrize("codec", CODECS)
def test_a_result_may_fill_the_limit_of_the_job(codec):
    data = bytes(range(256)) * 1000
    engine = NativeEngine(native_threads=1, job_memory=len(data) + (13 << 20))
    frame = engine.run_native(f"hl.{codec}.compress", data).result(LIMIT)
    assert engine.run_native(f"hl.{codec}.decompress", frame).result(LIMIT) == data
    job = engine.run_native(f"hl.{codec}.decompress", frame, len(data))
    assert job.result(LIMIT) == data
    with pytest.raises(ValueError, match="more than 255999 bytes"):
        engine.run_native(f"hl.{codec}.decompress", frame, len(data) - 1).result(LIMIT)
    assert engine.close(LIMIT) == []


def test_the_window_of_a_frame_counts_towards_the_limit(call):
    # A header that asks for a window of 128 MiB, and an empty last block.
    frame = bytes.fromhex("28b52ffd 00 88 010000")
    assert call("zstd.decompress", frame) == b""
    with pytest.raises(ValueError):
        call("zstd.decompress", bytes.fromhex("28b52ffd 00 90 010000"))
    engine = NativeEngine(native_threads=1, job_memory=64 << 20)
    with pytest.raises(MemoryError):
        engine.run_native("hl.zstd.decompress", frame).result(LIMIT)
    with pytest.raises(MemoryError):
        engine.run_native("hl.zstd.compress", bytes(64 << 20), 22).result(LIMIT)
    assert engine.close(LIMIT) == []


def decompress_gzip(data):
    try:
        return gzip.decompress(data) if data else None
    except (OSError, EOFError, zlib.error):
        return None


def decompress_zlib(data):
    decoder = zlib.decompressobj()
    try:
        result = decoder.decompress(data)
    except zlib.error:
        return None
    return result if decoder.eof and not decoder.unused_data else None


def decompress_frames(data, new_decoder, error):
    """What the frames have in them, one after another; None if the decoder refuses one of them."""
    result = b""
    while True:
        decoder = new_decoder()
        try:
            result += decoder.decompress(data)
        except error:
            return None
        if not decoder.eof:
            return None
        data = decoder.unused_data
        if not data:
            return result


def reference(codec):
    """A decoder of the library that most programs use."""
    if codec == "lz4":
        frame = pytest.importorskip("lz4.frame")
        return lambda data: decompress_frames(data, frame.LZ4FrameDecompressor, RuntimeError)
    if codec == "zstd":
        try:
            zstd = importlib.import_module("compression.zstd")
            return lambda data: decompress_frames(data, zstd.ZstdDecompressor, zstd.ZstdError)
        except ImportError:
            zstd = pytest.importorskip("zstandard")
            new = zstd.ZstdDecompressor().decompressobj
            return lambda data: decompress_frames(data, new, zstd.ZstdError)
    return {"gzip": decompress_gzip, "zlib": decompress_zlib}[codec]


@st.composite
def mutations(draw):
    """A function that changes bytes: some of them, or parts that are lost, twice there, or new."""
    kind = st.sampled_from(["set", "cut", "repeat", "insert"])
    place, length = st.integers(0, 2**16), st.integers(1, 8)
    steps = draw(
        st.lists(st.tuples(kind, place, length, st.binary(min_size=1, max_size=4)), max_size=4)
    )

    def mutate(data):
        for kind, place, length, new in steps:
            start = place % (len(data) + 1)
            part = data[start : start + length]
            middle = {"set": new, "cut": b"", "repeat": part * 2, "insert": new + part}[kind]
            rest = start + (len(new) if kind == "set" else length)
            data = data[:start] + middle + data[rest:]
        return data

    return mutate


@pytest.mark.parametrize("codec", CODECS)
@given(data=DATA, mutate=mutations(), frames=st.integers(1, 3))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_what_is_accepted_is_what_the_reference_decoder_gives(call, codec, data, mutate, frames):
    decompress = reference(codec)
    frame = call(f"{codec}.compress", data)
    if codec == "zlib":
        frames = 1
    assert decompress(frame * frames) == data * frames
    damaged = mutate(frame * frames)
    try:
        result = call(f"{codec}.decompress", damaged)
    except (ValueError, MemoryError):
        return
    assert decompress(damaged) == result
