"""Counts what a scenario leaves behind."""

import gc
import itertools
import sys

from .scenarios import run

# Caches fill slowly: of types, of code, and of objects that the loop uses again.
WARM = 400
ROUNDS = 5
RUNS = 20
# A cache is full at some time; a leak goes on.
ATTEMPTS = 5


def is_available():
    return hasattr(sys, "gettotalrefcount")


def growth(name):
    """The references that stay in each of some rounds of RUNS runs."""
    for _ in range(WARM):
        run(name)
    for _ in range(ATTEMPTS):
        differences = measure(name)
        if not is_leak(differences):
            break
    return differences


def measure(name):
    # Allocated before, so that it is in no difference.
    counts = [0] * (ROUNDS + 1)
    for number in range(ROUNDS + 1):
        if number:
            for _ in range(RUNS):
                run(name)
        gc.collect()
        counts[number] = sys.gettotalrefcount()
    return [after - before for before, after in itertools.pairwise(counts)]


def is_leak(differences):
    """Whether at least one reference stays for every run; noise does not come in every round."""
    return min(differences) >= RUNS
