"""What a process holds of memory, whatever the allocator keeps for later."""

import ctypes
import sys

# The fields of glibc's `struct mallinfo2`; what is in use are `uordblks` and `hblkhd` bytes.
FIELDS = [
    "arena",
    "ordblks",
    "smblks",
    "hblks",
    "hblkhd",
    "usmblks",
    "fsmblks",
    "uordblks",
    "fordblks",
    "keepcost",
]


class _MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


try:
    _mallinfo = ctypes.CDLL(None).mallinfo2
except (AttributeError, OSError):
    available = False
else:
    available = True
    _mallinfo.restype = _MallInfo


def in_use() -> int:
    """Bytes in use: those of `malloc()`, and of Python's own allocator 64 for each block."""
    info = _mallinfo()
    return info.uordblks + info.hblkhd + 64 * sys.getallocatedblocks()
