"""Subinterpreters cannot import hybridloop, whatever kind they are.

The main interpreter is as if they had not tried.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PRELUDE = """
import sys

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

# What the main interpreter does, and a server such as mod_wsgi does with Py_NewInterpreter().
if sys.version_info >= (3, 13):
    create = lambda: interpreters.create("legacy")
    run = interpreters.exec
else:
    create = lambda: interpreters.create(isolated=False)
    run = interpreters.run_string

TRY = '''
for _ in range(2):
    try:
        import hybridloop
    except ImportError as error:
        assert "subinterpreters" in str(error), error
    else:
        raise AssertionError("it was imported")
'''

def try_in(interpreter):
    failure = run(interpreter, TRY)
    assert not failure, failure

def use():
    import asyncio, hybridloop

    async def main():
        loop = asyncio.get_running_loop()
        server = await hybridloop.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        async with server:
            reader, writer = await hybridloop.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
        await loop.getaddrinfo("127.0.0.1", 80)
        assert await loop.run_native("hl.noop") is None
        await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(10)))

    hybridloop.run(main())
    with hybridloop.Engine(gil_threads=2) as engine:
        assert engine.spawn(asyncio.sleep(0.001, "done")).result() == "done"
"""

ORDERS = {
    "subinterpreter first": "one = create(); try_in(one); use(); try_in(one); use()",
    "main interpreter first": "use(); one = create(); try_in(one); use()",
    "subinterpreter that has ended": """
for _ in range(3):
    one = create()
    try_in(one)
    interpreters.destroy(one)
use()
one = create()
try_in(one)
interpreters.destroy(one)
use()
""",
}


@pytest.mark.parametrize("order", ORDERS)
def test_only_the_main_interpreter_imports_it(order: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PRELUDE + ORDERS[order] + "\nprint('end')"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "end\n"), result.stderr
