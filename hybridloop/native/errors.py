"""Exceptions of native kernels, the memory bus and channels."""

from __future__ import annotations

from typing import Any


class NativeKernelError(RuntimeError):
    """A kernel returned an error code of its own, or panicked.

    Codes defined in `hybridloop.h` raise `ValueError`, `TypeError`, `MemoryError`, `TimeoutError`,
    `KeyError` or `OverflowError` instead.
    """

    def __init__(self, code: int, message: str, kernel: str) -> None:
        super().__init__(code, message, kernel)
        self.code = code
        """The error code that the kernel returned."""
        self.message = message
        """The kernel's message, or a description of the code."""
        self.kernel = kernel
        """The kernel's name."""

    def __str__(self) -> str:
        return f"{self.kernel}: {self.message} (code {self.code})"


class KernelNotFoundError(KeyError):
    """No kernel has that name."""

    def __init__(self, name: str, message: str = "no such kernel") -> None:
        super().__init__(name)
        self.name = name
        """The name."""
        self.message = message
        """What is wrong, with the name of a kernel that may be meant."""

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.message)


class NativeQueueFullError(RuntimeError):
    """The queue of native jobs is full."""


class EngineClosedError(RuntimeError):
    """The engine was not started, is closed, or belongs to the parent process."""


class NativeClosedError(EngineClosedError):
    """The native engine is closed, or belongs to the parent process."""


class BufferInUseError(BufferError):
    """Another native job uses this memory, and one of the two writes to it."""


class KernelRegistrationError(ValueError):
    """The target cannot be registered as a kernel. Nothing was registered."""


class KernelExistsError(KernelRegistrationError):
    """A kernel of that name exists."""


class KernelSignatureError(KernelRegistrationError):
    """The signature is missing, malformed, or does not match the function."""


class KernelLibraryError(KernelRegistrationError):
    """A shared library cannot be loaded, or does not export a module of kernels."""


class KernelSymbolError(KernelRegistrationError):
    """A shared library does not export the symbol."""


class KernelAbiError(KernelRegistrationError):
    """The kernel was built for another version of the kernel ABI."""


class BusError(Exception):
    """The memory bus rejected an operation."""


class BusKeyError(BusError, KeyError, ValueError):
    """A key does not exist, is empty, longer than 255 bytes, or reserved for jobs."""

    def __init__(self, key: Any, message: str = "no such key") -> None:
        super().__init__(key)
        self.key = key
        """The key."""
        self.message = message
        """What is wrong with it."""

    def __str__(self) -> str:
        key = repr(self.key)
        return f"{self.message}: {key if len(key) <= 300 else f'{key[:300]}…'}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.message)


class BusKeyExistsError(BusError):
    """The key exists. Python cannot change what is on the bus."""

    def __init__(self, key: Any) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"the key {self.key!r} exists; only kernels can overwrite it"


class BusBusyError(BusError):
    """A kernel is writing the key."""

    def __init__(self, key: Any) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"a kernel is writing the key {self.key!r}; use 'await bus.wait(key)'"


class BusFullError(BusError):
    """The bus has not enough free bytes."""


class BusClosedError(BusError):
    """The bus is closed, or belongs to the parent process."""


class ChannelFullError(Exception):
    """The channel is full."""


class ChannelClosedError(Exception):
    """The channel is closed and empty."""
