"""Exceptions of clusters, and exceptions as values of a message."""

from __future__ import annotations

import builtins
from typing import Any

from ..native import errors as native_errors

_PLAIN = (type(None), bool, int, float, str, bytes)


class KernelLostError(ConnectionError):
    """A worker was lost, or data on it. Unless the text says otherwise, the kernel may have run."""


class KernelMismatchError(RuntimeError):
    """Workers lack kernels, or have them with other signatures.

    `workers` maps the address of each such worker to what is wrong with it.
    """

    def __init__(self, workers: dict[str, str]) -> None:
        super().__init__(workers)
        self.workers = workers
        """What is wrong, by the address of the worker."""

    def __str__(self) -> str:
        return "; ".join(f"worker {address}: {reason}" for address, reason in self.workers.items())


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


_CLASSES: dict[str, type[Exception]] = {
    name: value
    for module in (builtins, native_errors)
    for name, value in vars(module).items()
    if _is_error(value)
} | {"KernelLostError": KernelLostError}


def encode_error(error: BaseException) -> tuple[Any, ...]:
    """An exception as plain values: its class by name, its arguments, its notes."""
    kind = type(error)
    arguments: Any = error.__reduce__()[1]
    if _CLASSES.get(kind.__name__) is not kind:
        kind, arguments = RuntimeError, (f"{type(error).__name__}: {error}",)
    if not all(isinstance(argument, _PLAIN) for argument in arguments):
        arguments = (str(error),)
    return kind.__name__, tuple(arguments), tuple(getattr(error, "__notes__", ()))


def decode_error(encoded: tuple[Any, ...]) -> Exception:
    """The exception that `encode_error()` was given."""
    name, arguments, notes = encoded
    try:
        error = _CLASSES[name](*arguments)
    except (KeyError, TypeError):
        # Of another version of Python or hybridloop.
        error = RuntimeError(f"{name}: {', '.join(map(str, arguments))}")
    for note in notes:
        error.add_note(note)
    return error
