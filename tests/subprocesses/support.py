"""Programs for child processes."""

import sys


def python(source):
    """The arguments that run a Python program."""
    return [sys.executable, "-S", "-c", source]
