"""Kernels in Rust that panic, in a library: an error of the job, and nothing else."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from hybridloop import NativeKernelError, load_kernels
from hybridloop._core import NativeEngine

from .support import LIMIT

pytestmark = [
    pytest.mark.improves_on_asyncio,
    pytest.mark.usefixtures("clean_end"),
    pytest.mark.skipif(shutil.which("cargo") is None, reason="there is no Rust compiler"),
    # With the time that cargo takes.
    pytest.mark.timeout(1800),
]

CRATE = Path(__file__).parent / "kernels" / "panics"
PANIC = -10
"""HL_EPANIC"""


@pytest.fixture(scope="module", autouse=True)
def panics():
    """Build the crate, once for all Pythons that are tested from this folder, and load it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", CRATE.parents[3] / "target")) / "kernels"
    command = ["cargo", "build", "--release", "--quiet", "--target-dir", str(target)]
    subprocess.run([*command, "--manifest-path", str(CRATE / "Cargo.toml")], check=True)
    ending = "dylib" if sys.platform == "darwin" else "so"
    load_kernels(target / "release" / f"libpanics.{ending}", replace=True)


@pytest.fixture
def engine(loop):
    """One worker, so that the worker that has seen the panic runs the next job."""
    engine = loop.native_engine = NativeEngine(native_threads=1)
    yield engine
    assert engine.close(LIMIT) == []


def workers():
    """The threads of this process that run kernels."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if (task / "comm").read_text().startswith("hybridloop-"):
                found.add(task.name)
    return found


@pytest.mark.parametrize(
    ("kernel", "arguments", "message"),
    [
        ("words", ("oh ß",), r"on purpose: oh ß \(src/lib.rs:\d+:5\)"),
        ("words", ("",), r"no words \(src/lib.rs:\d+:9\)"),
        ("index", (bytes(80), 10), r"index out of bounds: .* 10 .* \(src/lib.rs:\d+:5\)"),
        ("other", (False,), r"the kernel panicked \(src/lib.rs:\d+:5\)"),
        ("other", (True,), "the kernel panicked"),
    ],
)
async def test_a_panic_is_an_error_of_its_job(loop, engine, capfd, kernel, arguments, message):
    name = f"panics.{kernel}"
    if kernel == "index":
        arguments = (memoryview(arguments[0]).cast("q"), arguments[1])
    with pytest.raises(NativeKernelError) as caught:
        await loop.run_native(name, *arguments)
    error = caught.value
    assert re.fullmatch(message, error.message)
    assert (error.code, error.kernel) == (PANIC, name)
    assert str(error) == f"{name}: {error.message} (code {PANIC})"
    assert capfd.readouterr() == ("", "")


async def test_a_panic_that_panics_when_it_is_dropped(loop, engine, capfd):
    with pytest.raises(NativeKernelError, match="the kernel panicked"):
        await loop.run_native("panics.bomb")
    # The second panic is reported nowhere else.
    assert "while it was dropped" in capfd.readouterr().err
    assert await loop.run_native("hl.crc32", b"x") == 2363233923


@pytest.mark.skipif(sys.platform != "linux", reason="threads are looked up in /proc")
async def test_the_worker_lives_on(loop, engine, capfd, eventually):
    others = workers()
    await loop.run_native("hl.noop")
    # A thread takes its name some time after it has begun.
    await eventually(lambda: workers() - others)
    before = workers() - others
    for _ in range(20):
        jobs = [loop.run_native("panics.words", "again"), loop.run_native("hl.crc32", b"x")]
        failed, checksum = await asyncio.gather(*jobs, return_exceptions=True)
        assert failed.code == PANIC
        assert checksum == 2363233923
    assert workers() - others == before
    assert await loop.run_native("panics.caught") is True
    # The worker counts a job after it has posted its end.
    await eventually(lambda: engine.stats()["running"] == 0)
    stats = engine.stats()
    assert (stats["failed"], stats["done"]) == (20, 22)
    # What the kernel itself catches was a panic of the kernel all the same.
    assert capfd.readouterr() == ("", "")


async def test_what_the_kernel_had_is_given_back(loop, engine):
    data = bytearray(10)
    memory = engine.stats()["memory"]
    job = loop.run_native("panics.half", data)
    items = []
    with pytest.raises(NativeKernelError, match="half way"):
        async for item in job:
            items.append(item)
    assert items == [5]
    assert data == bytes([1] * 5 + [0] * 5)
    data.append(1)
    assert not loop.bus.busy("half")
    assert "half" not in loop.bus
    del job
    async with asyncio.timeout(LIMIT):
        # The worker drops the job right after it has posted its end.
        while engine.stats()["memory"] != memory or len(loop.bus):
            await loop.run_native("hl.noop")


async def test_in_a_batch(loop, engine):
    calls = [("a",), ("b",)]
    results = await loop.run_native_many("panics.words", calls, return_exceptions=True)
    assert [error.message.split(" (")[0] for error in results] == [
        "on purpose: a",
        "on purpose: b",
    ]
    with pytest.raises(NativeKernelError, match="on purpose: a"):
        await loop.run_native_many("panics.words", calls)


async def test_a_panic_that_is_not_retrieved_is_reported_to_the_loop(loop, engine, capfd):
    reported = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    loop.run_native("panics.words", "never retrieved")
    async with asyncio.timeout(LIMIT):
        while not reported:
            await asyncio.sleep(0)
    assert reported[0]["message"] == "exception of native kernel 'panics.words' was never retrieved"
    assert "never retrieved" in reported[0]["exception"].message
    assert capfd.readouterr() == ("", "")
