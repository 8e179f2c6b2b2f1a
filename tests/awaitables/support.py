"""What the tests of coroutines written in C share."""

import asyncio
import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path

import hybridloop

EXTENSIONS = Path(__file__).parent / "extensions"
LIMITED = {"Py_LIMITED_API": "0x030B0000"}


def build(name, folder, defines=LIMITED, flags=("-std=c99",)):
    """Compile a file of `extensions/` to an extension module; give its path."""
    compiler = shutil.which("cc")
    assert compiler is not None, "the tests need a C compiler"
    target = folder / f"{name}.so"
    command = [compiler, *flags, "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    command += [f"-I{sysconfig.get_path('include')}", f"-I{hybridloop.get_include()}"]
    command += [f"-D{define}={value}" for define, value in defines.items()]
    subprocess.run([*command, "-o", target, EXTENSIONS / f"{name}.c"], check=True)
    return target


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def finish(coroutine):
    """Drive a coroutine that never waits; give its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def run(main):
    with asyncio.Runner(loop_factory=hybridloop.new_event_loop) as runner:
        return runner.run(main)
