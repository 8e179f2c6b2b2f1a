"""Kernels by name: which there are, registering more, loading libraries of them."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from .._core import (
    Kernel,
    _get_kernel,
    _kernel_names,
    _load_library,
    _register_address,
    _register_capsule,
    _register_capsules,
)
from .errors import KernelLibraryError, KernelSignatureError


class _KernelMapping(Mapping[str, Kernel]):
    """All kernels by name: built-in ones, registered ones, and those of installed packages."""

    def __getitem__(self, name: str) -> Kernel:
        kernel = _get_kernel(name)
        if kernel is None:
            discover()
            kernel = _get_kernel(name)
        if kernel is None:
            raise KeyError(name)
        return kernel

    def __iter__(self) -> Iterator[str]:
        discover()
        return iter(_kernel_names())

    def __len__(self) -> int:
        discover()
        return len(_kernel_names())

    def __repr__(self) -> str:
        return f"<{len(self)} kernels>"


kernels: Mapping[str, Kernel] = _KernelMapping()


ENTRY_POINTS = "hybridloop.kernels"
"""The group of entry points by which installed packages make their kernels known."""

_discover_lock = threading.RLock()
_discovered = False


def _reset_lock_after_fork() -> None:
    # Another thread, which is not there, may hold the lock.
    global _discover_lock
    _discover_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_lock_after_fork)


def discover() -> None:
    """Load the kernels of installed packages; once, when somebody looks for a kernel by name.

    An entry point of the group "hybridloop.kernels" refers to what `load_kernels()` takes, or to a
    function that returns that, or that registers kernels itself and returns None. What goes wrong
    with one is a `RuntimeWarning` and does not keep the others from being loaded.
    """
    global _discovered
    if _discovered:
        return
    with _discover_lock:
        if _discovered:
            return
        _discovered = True
        # As long as nobody asks for such kernels, the import of hybridloop is quicker without it.
        from importlib.metadata import entry_points

        for point in entry_points(group=ENTRY_POINTS):
            try:
                target = point.load()
                if callable(target):
                    target = target()
                if target is not None:
                    load_kernels(target)
            except Exception as error:
                warnings.warn(
                    f"the kernels of entry point {point.name!r} ({point.value}) cannot be loaded: "
                    f"{type(error).__name__}: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )


def register_kernel(
    name: str,
    target: Any,
    signature: str | None = None,
    *,
    replace: bool = False,
    doc: str | None = None,
) -> Kernel:
    """Make a native function a kernel that `run_native()` finds by its name.

    `target` is one of

    * a PyCapsule "hybridloop.kernel.v1", which holds a kernel that was written for hybridloop;
    * a `scipy.LowLevelCallable`, or a capsule whose name is the signature of the function it holds,
      as in Cython's `__pyx_capi__`; if there is user data, the function gets it by its last
      parameter, a `void *`, and the kernel does not take that one;
    * a function pointer of ctypes or cffi, or a `cfunc` of numba;
    * an address, as an int, or a pair of a shared library and the name of a function in it, such as
      `("libm.so.6", "cbrt")`; `None` for the library looks in the process itself.

    All but the first are plain C functions of numbers and pointers to numbers, for example
    `"f64(f64*, usize)"` or `"double(const double *x, size_t n)"`. `signature` says which; it may be
    left out where `target` knows it. A function must not touch Python or need its lock, and any
    thread may call it. What `target` holds lives as long as the kernel and its jobs do.

    Raises `KernelExistsError` if there is a kernel of that name and `replace` is false; jobs of a
    kernel that is replaced run to their end. Raises other kinds of `KernelRegistrationError`, or
    `TypeError`, for what cannot be a kernel. Nothing is registered then.
    """
    from . import sources

    found = sources.resolve(target)
    if isinstance(found, sources.KernelCapsule):
        return _register_capsule(found.capsule, name, signature, doc, replace)
    signature = found.signature if signature is None else signature
    if signature is None:
        raise KernelSignatureError(
            f"kernel {name!r}: say what the function takes and returns: "
            f"register_kernel({name!r}, …, 'f64(f64*, usize)')"
        )
    return _register_address(
        name, found.address, signature, doc or "", found.owner, replace, found.data
    )


def load_kernels(
    path_or_module: str | bytes | os.PathLike[Any] | ModuleType, *, replace: bool = False
) -> list[Kernel]:
    """Register all kernels of a shared library that exports `hybridloop_module()`, by its path.

    Or of a Python module: of the capsules "hybridloop.kernel.v1" among its attributes, or else of
    its file, if that is such a library. Either all are registered or none; the errors are those of
    `register_kernel()`. A library is never unloaded.
    """
    if not isinstance(path_or_module, ModuleType):
        return _load_library(os.fsdecode(path_or_module), replace)
    from . import sources

    module = path_or_module
    capsules = [
        value
        for value in vars(module).values()
        if type(value).__name__ == "PyCapsule"
        and isinstance(sources.resolve(value), sources.KernelCapsule)
    ]
    if capsules:
        return _register_capsules(capsules, replace)
    file = getattr(module, "__file__", None)
    if not file or file.endswith((".py", ".pyc")):
        raise KernelLibraryError(f"module {module.__name__!r} has no kernels")
    return _load_library(file, replace)


def get_include() -> str:
    """The directory of `hybridloop.h`, for the compiler's `-I`."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")
