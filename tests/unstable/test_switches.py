"""`HYBRIDLOOP_SAFE` and `build_info()`: which unstable optimisations are on."""

import json
import os
import platform
import subprocess
import sys

import pytest

import hybridloop

SHOW = "import json, hybridloop; print(json.dumps(hybridloop.build_info()))"

OPTIMISATIONS = {
    "bytes_reuse",
    "context_vars",
    "handle_reuse",
    "socket_fd",
    "ssl_object",
    "stream_reader",
    "type_version",
}


def info(safe):
    env = {**os.environ, "HYBRIDLOOP_SAFE": safe}
    done = subprocess.run([sys.executable, "-c", SHOW], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_it_says():
    found = hybridloop.build_info()
    assert found["hybridloop"] == hybridloop.__version__
    assert found["python"] == platform.python_version()
    assert found["safe"] == os.environ.get("HYBRIDLOOP_SAFE", "")
    # One more is probed when hybridloop.sync is imported, which another test may have done.
    assert set(found["unstable"]) - {"task_fields"} == OPTIMISATIONS


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="none is on where the tests have not run")
def test_all_are_on_by_default():
    free_threaded = info("0")["free_threaded"]
    needs_lock = {"bytes_reuse", "handle_reuse"}
    assert {name for name, on in info("0")["unstable"].items() if not on} == (
        needs_lock if free_threaded else set()
    )


def test_safe_turns_all_off():
    assert set(info("1")["unstable"].values()) == {False}


def test_a_list_of_names_turns_these_off():
    unstable = info("socket_fd, context_vars")["unstable"]
    assert not unstable["socket_fd"]
    assert not unstable["context_vars"]
    assert unstable["handle_reuse"] == info("")["unstable"]["handle_reuse"]


def test_programs_run_without_any():
    program = """
import asyncio, contextvars, hybridloop, socket

variable = contextvars.ContextVar("variable", default=0)

async def main():
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    await loop.sock_sendall(here, b"x" * 100)
    assert await loop.sock_recv(there, 200) == b"x" * 100
    reader, writer = await asyncio.open_connection(sock=here)
    own_reader, own_writer = await hybridloop.open_connection(sock=there)
    writer.write(b"line\\n")
    assert await own_reader.readline() == b"line\\n"
    own_writer.write(b"back\\n")
    assert await reader.readline() == b"back\\n"
    writer.close()
    own_writer.close()
    seen = []
    variable.set(1)
    loop.call_soon(lambda: seen.append(variable.get()))
    variable.set(2)
    loop.call_soon(lambda: seen.append(variable.get()))
    await asyncio.sleep(0)
    assert seen == [1, 2]

for _ in range(3):
    hybridloop.run(main())
"""
    env = {**os.environ, "HYBRIDLOOP_SAFE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
