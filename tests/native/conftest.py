"""Fixtures of the tests of native kernels."""

import gc
import itertools
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import hybridloop
from hybridloop._core import NativeEngine

from .support import LIMIT


@pytest.fixture
def engine():
    """An engine of its own, closed at the end."""
    engine = NativeEngine(native_threads=2)
    yield engine
    assert engine.close(LIMIT) == []


@pytest.fixture
def bus(engine):
    return engine.bus


@pytest.fixture
def single():
    """An engine with one worker."""
    engine = NativeEngine(native_threads=1, max_native_queue=3)
    yield engine
    assert engine.close(LIMIT) == []
    assert engine.stats()["memory"] == 0


HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory):
    """Compile a C file of `kernels/` to a shared library; give its path."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    numbers = itertools.count()

    def compile_c(source, **defines):
        target = tmp_path_factory.mktemp("lib") / f"lib{source}{next(numbers)}.so"
        command = [compiler, "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
        command += [
            "-pthread",
            f"-I{hybridloop.get_include()}",
            *(f"-D{name}={value}" for name, value in defines.items()),
        ]
        subprocess.run([*command, "-o", target, HERE / "kernels" / f"{source}.c"], check=True)
        return target

    return compile_c


@pytest.fixture
def name():
    """A name for a kernel or a module that no other test uses."""
    return f"test{next(names)}"


names = itertools.count()


@pytest.fixture(scope="session")
def job_library(compile_c):
    return compile_c("jobs")


@pytest.fixture
def job_kernels(job_library):
    """The kernels of `jobs.c`, with the gate closed; open at the end, so that none stays."""
    hybridloop.load_kernels(job_library, replace=True)
    engine = NativeEngine(native_threads=1)
    engine.run_native("jobs.set_gate", 0).result(LIMIT)
    yield
    engine.run_native("jobs.set_gate", 1).result(LIMIT)
    engine.close(LIMIT)


@pytest.fixture
def ticks():
    """A list that another thread makes longer whenever it gets the interpreter.

    The switch interval is longer than a test, so it gets it only in calls that release it.
    """
    interval, over, ticks = sys.getswitchinterval(), threading.Event(), []
    # A finalizer of what other tests have left could give it away as well.
    gc.collect()

    def tick():
        while not over.is_set():
            ticks.append(None)
            time.sleep(0)

    thread = threading.Thread(target=tick)
    sys.setswitchinterval(1000)
    thread.start()
    yield ticks
    over.set()
    sys.setswitchinterval(interval)
    thread.join()
