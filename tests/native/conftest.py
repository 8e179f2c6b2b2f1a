"""Fixtures of the tests of native kernels."""

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

import hybridloop
from hybridloop._core import NativeEngine


@pytest.fixture
def engine():
    """An engine of its own, closed at the end."""
    engine = NativeEngine(native_threads=2)
    yield engine
    assert engine.close(10.0) == []


@pytest.fixture
def bus(engine):
    return engine.bus


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
