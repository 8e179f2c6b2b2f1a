"""What native kernels and the memory bus raise."""

from __future__ import annotations

from typing import Any


class NativeKernelError(RuntimeError):
    """A kernel has failed with a code of its own, or has panicked.

    Codes that stand for an exception of Python's raise that one instead: `ValueError`, `TypeError`,
    `MemoryError`, `TimeoutError`, `KeyError`, `OverflowError`.
    """

    def __init__(self, code: int, message: str, kernel: str) -> None:
        super().__init__(code, message, kernel)
        self.code = code
        """What the kernel has returned."""
        self.message = message
        """The kernel's own words, or the code's."""
        self.kernel = kernel
        """The kernel's name."""

    def __str__(self) -> str:
        return f"{self.kernel}: {self.message} (code {self.code})"


class NativeQueueFullError(RuntimeError):
    """As many native jobs wait as the engine allows."""


class NativeClosedError(RuntimeError):
    """The engine of native kernels is closed, or belongs to the parent of this process."""


class BufferInUseError(BufferError):
    """A native job writes to this memory."""


class KernelRegistrationError(ValueError):
    """What was given is no kernel that can be registered. Nothing was registered."""


class KernelExistsError(KernelRegistrationError):
    """Another kernel has that name."""


class KernelSignatureError(KernelRegistrationError):
    """There is no signature, it cannot be read, or it is not the function's."""


class KernelLibraryError(KernelRegistrationError):
    """A shared library cannot be loaded, or what it exports is no module of kernels."""


class KernelSymbolError(KernelRegistrationError):
    """A shared library does not export what was asked for."""


class KernelAbiError(KernelRegistrationError):
    """It was built for another version of the interface between kernels and hybridloop."""


class BusError(Exception):
    """The memory bus refuses. A key that is not there raises `KeyError`."""


class BusKeyError(BusError, ValueError):
    """A key is empty, longer than 255 bytes, or reserved for jobs."""


class BusKeyExistsError(BusError):
    """The key is there, and Python does not change what is on the bus."""

    def __init__(self, key: Any) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"the key {self.key!r} exists, and only kernels overwrite; try_push() just tells"


class BusBusyError(BusError):
    """A native write of the key is open."""

    def __init__(self, key: Any) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"the key {self.key!r} is being written; 'await bus.wait(key)' waits for it"


class BusFullError(BusError):
    """More bytes than the bus has left."""


class BusClosedError(BusError):
    """The bus is closed, or belongs to the parent of this process."""


class ChannelFullError(Exception):
    """A channel holds as many values as it may."""


class ChannelClosedError(Exception):
    """A channel is closed, and nothing is in it any more."""
