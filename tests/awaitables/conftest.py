"""Fixtures of the tests of coroutines written in C."""

import functools
import shutil

import pytest

from .support import build_crates, build_once, load, load_crate


@pytest.fixture(scope="session")
def extension(tmp_path_factory):
    """``extension(name)`` compiles a file of `extensions/` for the limited API, and imports it."""

    @functools.cache
    def extension(name):
        return load(build_once(name, tmp_path_factory.mktemp("extension")), name)

    return extension


@pytest.fixture(scope="session")
def callbacks(extension):
    return extension("callbacks")


@pytest.fixture(scope="session")
def crates():
    """The folder of the libraries of `rust/`."""
    if shutil.which("cargo") is None:
        pytest.skip("there is no Rust compiler")
    return build_crates()


@pytest.fixture(scope="session")
def rust(crates):
    """The module with functions written with hybridloop-async."""
    return load_crate(crates, "async_functions")


@pytest.fixture(scope="session")
def runtimes(crates):
    """The module that uses pyo3-async-runtimes."""
    return load_crate(crates, "async_runtimes")
