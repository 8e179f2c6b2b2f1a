"""Parsers of comma-separated command-line arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable


def choice_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a parser of names, which takes them from a fixed set."""
    known = list(names)

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not in {', '.join(known)}")
        return chosen

    return parse


def numbers(text: str) -> list[int]:
    """Parse positive numbers."""
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError("numbers start at 1")
    return values
