"""What a part of a test leaves behind in this process."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.descriptors import open_files


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail if the block leaves a descriptor or a thread of Python behind.

    Compared is what there is, not how many: what earlier tests have left may end at any time.
    """
    gc.collect()
    files, threads = open_files(), set(threading.enumerate())
    yield
    gc.collect()
    left = sorted(open_files() - files), set(threading.enumerate()) - threads
    assert left == ([], set())
