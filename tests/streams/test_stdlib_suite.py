"""CPython's own tests of streams, on hybridloop's classes."""

import importlib.util
import json

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("test.test_asyncio") is None,
    reason="this Python comes without its own tests",
)

SCRIPT = """
import asyncio, json, sys, unittest, warnings
import hybridloop

for name in (
    "StreamReader", "StreamWriter", "StreamReaderProtocol", "open_connection", "start_server",
    "open_unix_connection", "start_unix_server",
):
    setattr(asyncio, name, getattr(hybridloop, name))
warnings.simplefilter("ignore", DeprecationWarning)
asyncio.set_event_loop_policy(hybridloop.EventLoopPolicy())
from test.test_asyncio import test_streams

suite = unittest.defaultTestLoader.loadTestsFromModule(test_streams)
result = unittest.TextTestRunner(stream=sys.stderr).run(suite)
bad = {test.id(): text for test, text in result.failures + result.errors}
print(json.dumps([result.testsRun, bad]))
"""

AT_LEAST = 50


def test_streams(run_script):
    result = run_script(SCRIPT, timeout=300)
    count, bad = json.loads(result.stdout.splitlines()[-1])
    assert not bad, "\n".join(bad.values())
    assert count >= AT_LEAST
