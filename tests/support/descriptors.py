"""File descriptors of this process."""

import os
import stat

FD_DIR = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def open_fds():
    """All open descriptors, without that of the listing itself."""
    return {fd for fd in map(int, os.listdir(FD_DIR)) if is_open(fd)}


def name_of(fd):
    """What a descriptor refers to."""
    try:
        return os.readlink(f"{FD_DIR}/{fd}")
    except OSError:
        return stat.filemode(os.fstat(fd).st_mode) if is_open(fd) else "closed"


def open_files():
    """All open descriptors with what they refer to: one that is opened anew is another."""
    return {(fd, name_of(fd)) for fd in open_fds()}
