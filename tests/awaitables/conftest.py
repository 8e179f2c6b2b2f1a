"""Fixtures of the tests of coroutines written in C."""

import functools

import pytest

from .support import build_once, load


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
