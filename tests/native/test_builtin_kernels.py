"""`hybridloop.kernels`: what is there before anybody registers anything."""

from collections.abc import Mapping

import pytest

import hybridloop

from .support import LIMIT

pytestmark = pytest.mark.improves_on_asyncio

NAMES = """
hl.argon2id.hash hl.argon2id.verify hl.argsort hl.base64.decode hl.base64.encode hl.bcrypt.hash
hl.bcrypt.verify hl.blake3 hl.bus.discard hl.compare_digest hl.crc32 hl.dot hl.gzip.compress
hl.gzip.decompress hl.histogram hl.lz4.compress hl.lz4.decompress hl.noop hl.sha256 hl.sleep hl.sort
hl.spin hl.sum hl.zlib.compress hl.zlib.decompress hl.zstd.compress hl.zstd.decompress
"""
BUILTIN = NAMES.split()


def test_is_a_mapping_of_kernels():
    kernels = hybridloop.kernels
    assert isinstance(kernels, Mapping)
    assert sorted(name for name in kernels if name.startswith("hl.")) == BUILTIN
    assert len(kernels) >= len(BUILTIN)
    assert "hl.sum" in kernels
    assert "hl.none" not in kernels
    assert kernels.get("hl.none") is None
    with pytest.raises(KeyError, match="hl.none"):
        kernels["hl.none"]
    with pytest.raises(TypeError):
        kernels["mine"] = kernels["hl.sum"]


@pytest.mark.parametrize("name", BUILTIN)
def test_each_says_what_it_takes_and_does(name):
    kernel = hybridloop.kernels[name]
    assert isinstance(kernel, hybridloop.Kernel)
    assert kernel.name == name
    assert kernel.signature.endswith(")")
    assert len(kernel.doc) > 10
    assert repr(kernel) == f"<Kernel '{name}': {kernel.signature}>"


def test_a_kernel_is_the_same_whenever_it_is_asked_for():
    one, same = hybridloop.kernels["hl.sum"], hybridloop.kernels["hl.sum"]
    assert one == same
    assert hash(one) == hash(same)
    assert one != hybridloop.kernels["hl.dot"]
    assert len({one, same}) == 1


@pytest.mark.parametrize("format", ["i", "q", "B"])
def test_kernels_for_floats_name_both_types(engine, format):
    values = memoryview(bytes(16)).cast(format)
    for kernel in ("hl.sum", "hl.sort", "hl.argsort"):
        message = f'expected elements of type f32 or f64, got format "{format}"'
        with pytest.raises(TypeError, match=message):
            engine.run_native(kernel, values).result(LIMIT)
