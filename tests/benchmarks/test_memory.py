"""What an idle connection costs, measured as the benchmark does."""

import os
import sys

import pytest

from benchmarks import memory
from tests.conftest import LOOP_MODULE

CONNECTIONS = 2000
LIMIT = 900


@pytest.mark.improves_on_asyncio
@pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup"),
    reason="the memory of a process is read from Linux's /proc",
)
@pytest.mark.skipif(sys.flags.dev_mode, reason="debug allocators take more")
def test_idle_connections_are_small():
    memory.raise_descriptor_limit(CONNECTIONS)
    # Whatever else the process does can only add: the least of a few counts.
    least = min(memory.measure(LOOP_MODULE, CONNECTIONS, tls=False) for _ in range(2))
    assert 100 < least <= LIMIT, f"{least:.0f} bytes for each connection"
