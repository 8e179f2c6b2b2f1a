"""The engine of native kernels: its sizes, the one of the process, its end, and forks."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

import pytest

import hybridloop
from hybridloop._core import NativeEngine
from hybridloop.native import parse_size

from .support import LIMIT, run

pytestmark = pytest.mark.improves_on_asyncio


def test_says_what_it_does(engine):
    assert engine.stats() == {
        "threads": 2,
        "queued": 0,
        "running": 0,
        "pending": 0,
        "completed": 0,
        "done": 0,
        "failed": 0,
        "cancelled": 0,
        "memory": 0,
        "bus": dict.fromkeys(("keys", "bytes", "writes", "reads", "pops", "evictions", "busy"), 0)
        | {"capacity": 256 << 20},
    }
    assert engine.is_current_process
    assert repr(engine) == "<NativeEngine native_threads=2>"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no nice of their own")
def test_workers_give_way_to_the_threads_of_python(engine):
    def nice_of_workers():
        for path in pathlib.Path("/proc/self/task").glob("*/comm"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                if re.match(r"hybridloop-\d", path.read_text()):
                    yield os.getpriority(os.PRIO_PROCESS, int(path.parent.name))

    expected = min(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) + 5, 19)
    engine.run_native("hl.noop").result(LIMIT)
    deadline = time.monotonic() + LIMIT
    while not (found := list(nice_of_workers())) or set(found) != {expected}:
        assert time.monotonic() < deadline, found
        time.sleep(0.001)  # not all of them may have run yet


@pytest.mark.parametrize(
    "arguments",
    [
        {"native_threads": 0},
        {"max_native_queue": 0},
        {"native_queue": "random"},
        {"bus_policy": "drop"},
    ],
)
def test_refuses_sizes_that_make_no_sense(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        NativeEngine(**arguments)
    with pytest.raises(ValueError, match=next(iter(arguments))):
        hybridloop.configure(**arguments)


@pytest.mark.parametrize(
    "name", ["native_threads", "max_native_queue", "bus_capacity", "memory", "job_memory"]
)
def test_refuses_by_name_what_is_no_size(name):
    for size in [-1, 2**64]:
        with pytest.raises(OverflowError, match=f"{name} must be an int from . to .*, not {size}"):
            NativeEngine(**{name: size})
    with pytest.raises(TypeError, match=f"{name} must be an int, not float"):
        NativeEngine(**{name: 1.5})


@pytest.mark.parametrize("timeout", [-1.0, float("nan")])
def test_refuses_a_bad_timeout(engine, timeout):
    with pytest.raises(ValueError, match="timeout"):
        engine.close(timeout)


@pytest.mark.parametrize(
    ("text", "size"),
    [(17, 17), ("17", 17), ("256MiB", 256 << 20), ("1.5 kib", 1536), ("2GB", 2 * 10**9)],
)
def test_sizes_have_units(text, size):
    assert parse_size("memory", text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1 XiB", "1e3"])
def test_refuses_sizes_it_cannot_read(text):
    with pytest.raises(ValueError, match="memory must be a number of bytes"):
        parse_size("memory", text)


async def test_is_the_engine_of_a_loop(loop):
    engine = hybridloop.NativeEngine(native_threads=1, bus_capacity=1 << 20)
    loop.native_engine = engine
    await loop.run_native("hl.crc32", b"some data", key="sum")
    assert "sum" in engine.bus and "sum" in loop.bus
    assert (engine.stats()["done"], loop.bus.stats()["capacity"]) == (1, 1 << 20)
    assert engine.close() == []


def test_is_empty_and_closed_after_its_end():
    engine = NativeEngine()
    engine.bus.push("key", b"value")
    view = engine.bus.get("key")
    assert engine.close() == []
    assert len(engine.bus) == 0
    assert view == b"value"
    with pytest.raises(hybridloop.BusClosedError):
        engine.bus.push("key", b"value")
    with pytest.raises(hybridloop.BusClosedError):
        engine.bus.get("key")
    assert engine.close() == []


def test_loops_share_the_engine_of_the_process_unless_they_have_their_own(loop_factory, engine):
    with_own, one, another = loop_factory(), loop_factory(), loop_factory()
    try:
        with_own.native_engine = engine
        assert with_own.bus is engine.bus
        assert one.native_engine is another.native_engine
        assert one.bus is another.bus is not engine.bus
        with pytest.raises(TypeError, match="NativeEngine"):
            one.native_engine = "engine"
        # Methods of a loop are found at half the cost as long as nothing is in there.
        assert not any(map(vars, (with_own, one, another)))
    finally:
        for loop in (with_own, one, another):
            loop.close()


def test_the_engine_of_the_process_takes_sizes_until_it_is_in_use(run_script):
    done = run_script(
        """
        import hybridloop
        hybridloop.configure(native_threads=3, bus_capacity="1MiB")
        hybridloop.configure(native_threads=5, bus_capacity="1MiB")
        loop = new_event_loop()
        stats = loop.native_engine.stats()
        print(stats["threads"], stats["bus"]["capacity"])
        try:
            hybridloop.configure(native_threads=3)
        except RuntimeError as error:
            print(error)
        loop.close()
        """
    )
    first, second = done.stdout.splitlines()
    assert first == f"5 {1 << 20}"
    assert "in use already" in second


def test_a_child_gets_an_engine_of_its_own(run_script):
    done = run_script(
        """
        import hybridloop
        hybridloop.configure(native_threads=3)
        loop = new_event_loop()
        loop.bus.push("parents", b"1")
        engine = loop.native_engine
        if (pid := os.fork()) == 0:
            assert not engine.is_current_process
            assert engine.stats() == {}
            assert len(engine.bus) == 0 and "parents" not in engine.bus
            try:
                engine.bus.push("of the child", b"1")
            except hybridloop.BusClosedError:
                pass
            else:
                raise AssertionError("pushed to the bus of the parent")
            assert engine.close() == []
            own = new_event_loop()
            assert own.native_engine is not engine
            assert own.native_engine.stats()["threads"] == 3
            own.bus.push("parents", b"2")
            own.close()
            print("child", flush=True)
            del engine, loop, own
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert loop.bus.keys() == ["parents"] and loop.bus.get("parents") == b"1"
        print("parent")
        loop.close()
        """
    )
    assert done.stdout.split() == ["child", "parent"]


@pytest.mark.parametrize("own", [False, True])
def test_a_program_ends_while_kernels_run(run_script, own):
    """The exit waits a second for a kernel that does not check `cancelled()`."""
    done = run_script(
        f"""
        import hybridloop
        hybridloop.register_kernel("sleep", (None, "usleep"), "i32(u32 us)")
        hybridloop.configure(native_threads=2)

        async def main():
            loop = asyncio.get_running_loop()
            if {own}:
                loop.native_engine = hybridloop._core.NativeEngine(native_threads=2)
            hybridloop.jobs = [
                loop.run_native("hl.spin", 600.0),
                loop.run_native("sleep", 600_000_000),
                *(loop.run_native("hl.noop") for _ in range(100)),
            ]
            while loop.native_engine.stats()["running"] < 2:
                await asyncio.sleep(0.001)
            print("end", flush=True)

        hybridloop.run(main())
        """,
        timeout=300,
    )
    assert (done.stdout, done.stderr) == ("end\n", "")


def test_the_last_holder_of_a_kernel_may_be_a_worker(run_script):
    """What a kernel keeps is an object of Python, and workers do not hold Python's lock."""
    done = run_script(
        """
        import ctypes, gc, weakref, hybridloop
        usleep = ctypes.CDLL(None).usleep
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint)
        address = ctypes.cast(usleep, ctypes.c_void_p).value

        async def main():
            loop = asyncio.get_running_loop()
            watches = []
            for i in range(50):
                owner = prototype(address)
                watches.append(weakref.ref(owner))
                hybridloop.register_kernel("sleep", owner, replace=True)
                del owner
                loop.run_native("sleep", 2000)
            hybridloop.register_kernel("sleep", address, "i32(u32)", replace=True)
            deadline = time.monotonic() + 100
            while any(watch() for watch in watches):
                assert time.monotonic() < deadline
                await loop.run_native("hl.noop")
                gc.collect()
            print("gone")

        hybridloop.run(main())
        """
    )
    assert (done.stdout, done.stderr) == ("gone\n", "")


@pytest.mark.parametrize("wait", ["result", "await", "elsewhere"])
def test_a_job_keeps_its_engine(wait):
    def submit():
        engine = NativeEngine(native_threads=1)
        jobs = [engine.run_native("hl.sleep", 0.02), engine.run_native("hl.crc32", b"123456789")]
        return [*jobs, engine.run_native_many("hl.crc32", [(b"123456789",)] * 3)]

    if wait == "result":
        values = [NativeEngine().run_native("hl.crc32", b"123456789").result(LIMIT)]
        results = [job.result(LIMIT) for job in submit()]
    else:
        jobs = submit() if wait == "elsewhere" else None

        async def main():
            return [await job for job in jobs or submit()]

        results = run(main())
        values = [0xCBF43926]
    assert values == [0xCBF43926]
    assert results == [None, 0xCBF43926, [0xCBF43926] * 3]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/task")
def test_an_engine_goes_with_the_last_job_that_runs():
    def workers():
        found = set()
        for path in pathlib.Path("/proc/self/task").glob("*/comm"):
            with contextlib.suppress(OSError):  # a thread that has ended meanwhile
                if path.read_text().startswith("hybridloop-"):
                    found.add(path)
        return found

    # Those of other tests may end meanwhile.
    before = workers()
    job = NativeEngine(native_threads=2).run_native("hl.sleep", 0.02)
    assert job.result(LIMIT) is None
    deadline = time.monotonic() + LIMIT
    while workers() - before:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert job.done()


def test_kernels_of_all_engines_are_asked_to_return_at_exit():
    program = """
import hybridloop
from hybridloop._core import NativeEngine

for _ in range(3):
    NativeEngine(native_threads=1).run_native("hl.sleep", 1000.0)
"""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
    assert time.monotonic() - begin < 200
