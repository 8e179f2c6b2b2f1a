"""pytest-asyncio runs its tests and fixtures on the loop under test, by each of its doors."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .support.loops import LOOP_NAME, loop_class_path
from .support.processes import run_script

POLICY_CONFTEST = f"""
import asyncio

import pytest
import {LOOP_NAME} as module

new_event_loop = asyncio.SelectorEventLoop if module is asyncio else module.new_event_loop


class Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self):
        return new_event_loop()


@pytest.fixture(scope="session")
def event_loop_policy():
    return Policy()
"""

FACTORY_CONFTEST = f"""
import {LOOP_NAME} as module

def pytest_asyncio_loop_factories(config, item):
    return {{"under_test": module.new_event_loop}}
"""

OWN_POLICY_CONFTEST = """
import pytest
import hybridloop

@pytest.fixture(scope="session")
def event_loop_policy():
    return hybridloop.EventLoopPolicy()
"""

TESTS = f"""
import asyncio

import pytest
import pytest_asyncio

SEEN = []


@pytest_asyncio.fixture
async def port():
    async def echo(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_class_of_the_loop():
    loop = type(asyncio.get_running_loop())
    assert f"{{loop.__module__}}.{{loop.__qualname__}}" == "{loop_class_path()}"


@pytest.mark.parametrize("number", range(5))
async def test_echo(port, number):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"line %d\\n" % number)
    assert await reader.read() == b"line %d\\n" % number
    writer.close()
    await writer.wait_closed()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("index", range(3))
async def test_loop_is_kept_for_the_module(index):
    SEEN.append(asyncio.get_running_loop())
    assert len(set(SEEN)) == 1


async def test_fails_as_it_must():
    await asyncio.sleep(0)
    raise LookupError("expected failure")
"""

OPTIONS = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
WARNINGS = ["-W", "error::ResourceWarning"]


def run_pytest(directory: Path, conftest: str) -> None:
    (directory / "conftest.py").write_text(conftest)
    (directory / "test_inner.py").write_text(TESTS)
    arguments = [*OPTIONS, *WARNINGS, "--rootdir", str(directory), str(directory)]
    result = run_script("-m", "pytest", *arguments)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "1 failed, 9 passed" in result.stdout, result.stdout + result.stderr
    assert "LookupError: expected failure" in result.stdout


def test_loop_factories_hook(tmp_path: Path) -> None:
    plugin = pytest.importorskip("pytest_asyncio.plugin")
    if not hasattr(plugin.PytestAsyncioSpecs, "pytest_asyncio_loop_factories"):
        pytest.skip("this pytest-asyncio has no pytest_asyncio_loop_factories hook")
    run_pytest(tmp_path, FACTORY_CONFTEST)


@pytest.mark.skipif(not hasattr(asyncio, "AbstractEventLoopPolicy"), reason="policies are gone")
def test_policy_fixture(tmp_path: Path) -> None:
    run_pytest(tmp_path, POLICY_CONFTEST)


@pytest.mark.skipif(LOOP_NAME != "hybridloop", reason="tests hybridloop's own policy")
def test_own_policy_fixture(tmp_path: Path) -> None:
    run_pytest(tmp_path, OWN_POLICY_CONFTEST)
