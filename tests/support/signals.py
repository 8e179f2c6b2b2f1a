"""Signals to this process."""

import os
import signal


def current_wakeup_fd():
    fd = signal.set_wakeup_fd(-1)
    if fd != -1:
        signal.set_wakeup_fd(fd)
    return fd


def kill_self(number=signal.SIGUSR1):
    os.kill(os.getpid(), number)
