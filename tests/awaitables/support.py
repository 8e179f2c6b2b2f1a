"""What the tests of coroutines written in C share."""

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import hybridloop

ROOT = Path(__file__).parents[2]
EXTENSIONS = Path(__file__).parent / "extensions"
LIMITED = {"Py_LIMITED_API": "0x030B0000"}


def build(name, folder, defines=LIMITED, flags=("-std=c99",), include=None):
    """Compile a file, one of `extensions/` by its name, to an extension module; give its path."""
    compiler = shutil.which("cc")
    assert compiler is not None, "the tests need a C compiler"
    source = name if isinstance(name, Path) else EXTENSIONS / f"{name}.c"
    target = folder / f"{source.stem}.so"
    command = [compiler, *flags, "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    if sys.platform == "darwin":
        command += ["-undefined", "dynamic_lookup"]
    command += [f"-I{folder}" for folder in (include, hybridloop.get_include()) if folder]
    command += [f"-I{sysconfig.get_path('include')}"]
    command += [f"-D{define}={value}" for define, value in defines.items()]
    subprocess.run([*command, "-o", target, source], check=True)
    return target


def build_once(name, folder):
    """Compile for the limited API.

    If `HYBRIDLOOP_TEST_EXTENSIONS` names a folder, what is built stays there for other Pythons.
    """
    kept = os.environ.get("HYBRIDLOOP_TEST_EXTENSIONS")
    if kept is None:
        return build(name, folder)
    path = Path(kept) / f"{name}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another Python may look for it meanwhile: it is there when it is whole.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            build(name, Path(folder)).replace(path)
    return path


def build_crates():
    """Build the crates of `rust/`, once for all Pythons, and give the folder of the libraries."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "extensions"
    # They use the limited API, so there is no Python to ask.
    env = {name: it for name, it in os.environ.items() if name != "PYO3_PYTHON"}
    env |= {"PYO3_NO_PYTHON": "1", "PYO3_BUILD_EXTENSION_MODULE": "1"}
    if sys.platform == "darwin":
        env["RUSTFLAGS"] = "-C link-arg=-undefined -C link-arg=dynamic_lookup"
    command = ["cargo", "build", "--release", "--quiet", "--target-dir", str(target)]
    manifest = Path(__file__).parent / "rust" / "Cargo.toml"
    subprocess.run([*command, "--manifest-path", str(manifest)], check=True, env=env)
    return target / "release"


def load_crate(folder, name):
    ending = "dylib" if sys.platform == "darwin" else "so"
    return load(folder / f"lib{name}.{ending}", name)


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


class Inner:
    """A coroutine of Python that waits, and what it has seen."""

    def __init__(self, suppress=False):
        self.suppress = suppress
        self.events = []

    async def wait(self):
        try:
            self.events.append("began")
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            self.events.append("cancelled")
            if not self.suppress:
                raise
        finally:
            await asyncio.sleep(0)
            self.events.append("finally")
        return "suppressed"


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def begin(coroutine, inner):
    """Make a task of it, and wait until the inner one waits."""
    task = asyncio.ensure_future(coroutine)
    await until(lambda: inner.events)
    return task


async def times_out(wait, seconds=0.002):
    """What `wait(inner, seconds)` awaits; a busy machine gets more time, until that has begun."""
    while True:
        inner = Inner()
        await wait(inner, seconds)
        if inner.events:
            return inner
        assert seconds < 100
        seconds *= 10


async def gives(value):
    await asyncio.sleep(0)
    return value


async def at_once(value):
    return value


async def fails(error):
    raise error


class Manager:
    def __init__(self, suppress=False, enter=None, exit=None):
        self.events = []
        self.suppress = suppress
        self.errors = enter, exit

    async def __aenter__(self):
        await asyncio.sleep(0)
        self.events.append("enter")
        if self.errors[0]:
            raise self.errors[0]
        return "entered"

    async def __aexit__(self, kind, value, traceback):
        await asyncio.sleep(0)
        assert kind is (None if value is None else type(value))
        self.events.append(value)
        if self.errors[1]:
            raise self.errors[1]
        return self.suppress


async def count(n, error=None):
    for i in range(n):
        await asyncio.sleep(0)
        yield i
    if error:
        raise error
