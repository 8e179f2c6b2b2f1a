"""`xlist` and kernels: native threads push, Python pops.

Engines come from the private module `_core`.
"""

from __future__ import annotations

import gc
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest

import hybridloop
from hybridloop import parallel
from hybridloop._core import NativeEngine
from tests.support.waiting import until

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("lib") / "liblists.so"
    command = [compiler, "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    command += [f"-I{HERE.parent.parent / 'include'}", "-o", str(library)]
    subprocess.run([*command, HERE / "kernels" / "push.c"], check=True)
    hybridloop.load_kernels(library, replace=True)


@pytest.fixture
def engine() -> Iterator[NativeEngine]:
    engine = NativeEngine(native_threads=8)
    yield engine
    assert engine.close(60.0) == []


@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_eight_native_threads_push_a_million_items(order: str, engine: NativeEngine) -> None:
    total, threads = 1_000_000, 8
    each = total // threads
    xl = parallel.xlist(order)  # type: ignore[arg-type]
    before = engine.stats()["memory"]
    batch = engine.run_native_many(
        "lists.push", [(xl.channel, number * each, each) for number in range(threads)]
    )
    seen = bytearray(total)
    count = 0
    # Python takes while the threads push.
    while count < total:
        if (item := xl.pop()) is None:
            assert not (batch.done() and not len(xl) and count < total), f"{total - count} lost"
            continue
        seen[item] += 1
        count += 1
    batch.result(60)
    assert seen == b"\1" * total, "each of them once"
    assert xl.pop() is None and len(xl) == 0
    # A worker drops its job after the result has arrived.
    until(lambda: engine.stats()["memory"] == before)


def test_the_memory_of_the_threads_is_free_before_anything_is_taken(
    engine: NativeEngine,
) -> None:
    xl = parallel.xlist()
    engine.run_native_many("lists.push", [(xl.channel, 0, 1000)] * 8).result(60)
    gc.collect()
    # Each had a megabyte of its own.
    until(lambda: engine.stats()["memory"] < 2 << 20)
    assert len(xl) == 8000
    assert sorted(xl.drain()) == sorted([*range(1000)] * 8)
    until(lambda: engine.stats()["memory"] == 0)


def test_kinds(engine: NativeEngine) -> None:
    xl = parallel.xlist("fifo")
    engine.run_native("lists.push_kinds", xl.channel).result(60)
    assert xl.drain() == [None, True, 2**64 - 1, 0.5, "text", b"bytes"]


def test_what_python_pushes_goes_through_kernels(engine: NativeEngine) -> None:
    values = [None, 1, 2**100, "text", b"bytes", bytearray(b"x"), (1, ("two",)), 1j, frozenset("a")]
    source, target = parallel.xlist("fifo"), parallel.xlist("fifo")
    for value in values:
        source.push(value)
    assert engine.run_native("lists.move", source.channel, target.channel).result(60) == len(values)
    taken = target.drain()
    assert taken == values and [type(it) for it in taken] == [type(it) for it in values]
    assert len(source) == 0
