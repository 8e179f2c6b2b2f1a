# mypy: disable-error-code="empty-body"
"""Native kernels. Made by `python -m hybridloop kernels --stubs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from hybridloop import JobOptions, NativeBuffer, typed_kernel

if TYPE_CHECKING:
    from typing_extensions import Buffer


@typed_kernel("hl.argon2id.hash")
def argon2id_hash(
    password: Buffer,
    memory: int = 19456,
    passes: int = 2,
    lanes: int = 1,
    max_memory: int = 262144,
    max_passes: int = 16,
    **options: Unpack[JobOptions],
) -> str:
    """Argon2id of `password` with a random salt, as a PHC string: a str. `memory` in KiB,
    `passes` over it, `lanes`; bad parameters are a `ValueError`, and so are more than
    `max_memory` and `max_passes`. The memory counts towards the limits of the job and of the
    engine. Does not stop early.
    """


@typed_kernel("hl.argon2id.verify")
def argon2id_verify(
    password: Buffer,
    hash: str,
    max_memory: int = 262144,
    max_passes: int = 16,
    **options: Unpack[JobOptions],
) -> bool:
    """Whether `hash`, a PHC string of Argon2, is that of `password`: a bool. A hash that cannot
    be parsed, or that asks for more than `max_memory` KiB or `max_passes` over it, is a
    `ValueError`. The memory counts towards the limits of the job and of the engine. Does not
    stop early.
    """


@typed_kernel("hl.argsort")
def argsort(values: Buffer, **options: Unpack[JobOptions]) -> NativeBuffer:
    """The indices that sort `values`, f32 or f64, in ascending order, -0.0 before 0.0, NaN last,
    equal ones in their order: an array of i64.
    """


@typed_kernel("hl.base64.decode")
def base64_decode(
    data: Buffer, urlsafe: bool = False, **options: Unpack[JobOptions]
) -> NativeBuffer:
    """The bytes whose padded Base64 is `data`; anything else, spaces included, is a
    `ValueError`.
    """


@typed_kernel("hl.base64.encode")
def base64_encode(
    data: Buffer, urlsafe: bool = False, **options: Unpack[JobOptions]
) -> NativeBuffer:
    """Base64 of `data`, with padding: ASCII bytes. With `urlsafe`, `-` and `_` instead of `+`
    and `/`.
    """


@typed_kernel("hl.bcrypt.hash")
def bcrypt_hash(
    password: Buffer, cost: int = 12, max_cost: int = 16, **options: Unpack[JobOptions]
) -> str:
    """Bcrypt of `password` with a random salt: a str. `cost` from 4 to 31, each step twice the
    time; more than `max_cost` is a `ValueError`. So is a password of more than 72 bytes, or
    with a zero byte. Does not stop early.
    """


@typed_kernel("hl.bcrypt.verify")
def bcrypt_verify(
    password: Buffer, hash: str, max_cost: int = 16, **options: Unpack[JobOptions]
) -> bool:
    """Whether `hash` is a bcrypt hash of `password`: a bool. A hash that cannot be parsed, or
    whose cost is more than `max_cost`, is a `ValueError`. Does not stop early.
    """


@typed_kernel("hl.blake3")
def blake3(data: Buffer, **options: Unpack[JobOptions]) -> NativeBuffer:
    """BLAKE3 of `data`: 32 bytes."""


@typed_kernel("hl.bus.discard")
def bus_discard(key_: str | bytes, /, **options: Unpack[JobOptions]) -> bool:
    """Removes `key` from the bus. Returns whether it existed: a bool."""


@typed_kernel("hl.compare_digest")
def compare_digest(a: Buffer, b: Buffer, **options: Unpack[JobOptions]) -> bool:
    """Whether `a` and `b` are equal, in a time that depends only on their lengths: a bool."""


@typed_kernel("hl.crc32")
def crc32(data: Buffer, start: int = 0, **options: Unpack[JobOptions]) -> int:
    """CRC-32 of `data` as `zlib.crc32()` computes it, continued from `start`: an int."""


@typed_kernel("hl.dot")
def dot(a: Buffer, b: Buffer, **options: Unpack[JobOptions]) -> float:
    """The dot product of `a` and `b`, both f32 or both f64 and of one length, added up in f64,
    in pairs: a float. It is the same on every machine.
    """


@typed_kernel("hl.gzip.compress")
def gzip_compress(data: Buffer, level: int = 6, **options: Unpack[JobOptions]) -> NativeBuffer:
    """A gzip member of `data`; `level` from 0 (none) to 9 (small)."""


@typed_kernel("hl.gzip.decompress")
def gzip_decompress(data: Buffer, max_size: int = 0, **options: Unpack[JobOptions]) -> NativeBuffer:
    """The decompressed gzip members of `data`."""


@typed_kernel("hl.histogram")
def histogram(
    values: Buffer, bins: int, low: float, high: float, **options: Unpack[JobOptions]
) -> NativeBuffer:
    """How many of `values`, f32 or f64, lie in each of `bins` equal parts of `low` to `high`,
    both included: an array of i64. Values outside, and NaN, are not counted.
    """


@typed_kernel("hl.lz4.compress")
def lz4_compress(data: Buffer, **options: Unpack[JobOptions]) -> NativeBuffer:
    """An LZ4 frame of `data`, with a checksum."""


@typed_kernel("hl.lz4.decompress")
def lz4_decompress(data: Buffer, max_size: int = 0, **options: Unpack[JobOptions]) -> NativeBuffer:
    """The decompressed LZ4 frames of `data`."""


@typed_kernel("hl.noop")
def noop(**options: Unpack[JobOptions]) -> None:
    """Does nothing, for measurements of what a call costs."""


@typed_kernel("hl.sha256")
def sha256(data: Buffer, **options: Unpack[JobOptions]) -> NativeBuffer:
    """SHA-256 of `data`: 32 bytes."""


@typed_kernel("hl.sleep")
def sleep(seconds: float, **options: Unpack[JobOptions]) -> None:
    """Sleeps for `seconds`; checks every few milliseconds whether it was cancelled."""


@typed_kernel("hl.sort")
def sort(values: Buffer, **options: Unpack[JobOptions]) -> NativeBuffer:
    """`values`, f32 or f64, in ascending order, -0.0 before 0.0, NaN last: an array of that
    type.
    """


@typed_kernel("hl.spin")
def spin(seconds: float, **options: Unpack[JobOptions]) -> None:
    """Computes until it has used `seconds` of processor time: the same work however busy the
    machine is.
    """


@typed_kernel("hl.sum")
def sum(values: Buffer, **options: Unpack[JobOptions]) -> float:
    """The sum of `values`, f32 or f64, added up in f64, in pairs: a float. It is the same on
    every machine.
    """


@typed_kernel("hl.zlib.compress")
def zlib_compress(data: Buffer, level: int = 6, **options: Unpack[JobOptions]) -> NativeBuffer:
    """A zlib stream (deflate) of `data`; `level` from 0 (none) to 9 (small)."""


@typed_kernel("hl.zlib.decompress")
def zlib_decompress(data: Buffer, max_size: int = 0, **options: Unpack[JobOptions]) -> NativeBuffer:
    """The decompressed zlib stream (deflate) `data`."""


@typed_kernel("hl.zstd.compress")
def zstd_compress(data: Buffer, level: int = 3, **options: Unpack[JobOptions]) -> NativeBuffer:
    """A Zstandard frame of `data`, with a checksum; `level` from -7 (fast) to 22 (small)."""


@typed_kernel("hl.zstd.decompress")
def zstd_decompress(data: Buffer, max_size: int = 0, **options: Unpack[JobOptions]) -> NativeBuffer:
    """The decompressed Zstandard frames of `data`, which need at most 128 MiB for their windows."""
