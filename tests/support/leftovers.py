"""What a part of a test leaves behind in this process."""

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.descriptors import open_files


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail if the block leaves a descriptor or a thread of Python behind.

    Compared is what there is, not how many: what earlier tests have left may end at any time, and
    until then open a file for a moment.
    """
    gc.collect()
    files, threads = open_files(), set(threading.enumerate())
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while left := (open_files() - files) | (set(threading.enumerate()) - threads):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
