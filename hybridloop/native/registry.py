"""The registry of kernels: looking them up, registering them, loading libraries."""

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
    _kernel_not_found,
    _load_library,
    _register_address,
    _register_capsule,
    _register_capsules,
)
from .errors import KernelLibraryError, KernelSignatureError


class _KernelMapping(Mapping[str, Kernel]):
    """All kernels by name: built-in, registered, and of installed packages."""

    def __getitem__(self, name: str) -> Kernel:
        kernel = _get_kernel(name)
        if kernel is None:
            discover()
            kernel = _get_kernel(name)
        if kernel is None:
            raise _kernel_not_found(name)
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
"""The entry point group in which packages declare their kernels."""

_discover_lock = threading.RLock()
_discovered = False


def _reset_lock_after_fork() -> None:
    # A thread of the parent may hold the lock; it does not exist here.
    global _discover_lock
    _discover_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_lock_after_fork)


def discover() -> None:
    """Load the kernels of installed packages. Runs once, when an unknown kernel is looked up.

    An entry point of the group "hybridloop.kernels" refers to an argument for `load_kernels()`,
    such as a module, or to a function that returns one, or that registers kernels itself and
    returns None. An exception becomes a `RuntimeWarning`, and the other entry points are still
    loaded.
    """
    global _discovered
    if _discovered:
        return
    with _discover_lock:
        if _discovered:
            return
        _discovered = True
        # Imported late: this keeps the import of hybridloop fast.
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
    """Register a native function as a kernel for `run_native()`.

    `target` is one of

    * a PyCapsule "hybridloop.kernel.v1" with a kernel that was written for hybridloop;
    * a `scipy.LowLevelCallable`, or a capsule whose name is the signature of its function, as in
      Cython's `__pyx_capi__`. User data is passed to the last parameter of the function, which must
      be a `void *` and is not a parameter of the kernel;
    * a function pointer of ctypes or cffi, or a `cfunc` of numba;
    * an address, as an int, or a pair of a shared library and the name of a function in it, such as
      `("libm.so.6", "cbrt")`; the library `None` is the process itself.

    All but the first are plain C functions of numbers and pointers to numbers. `signature` is for
    example `"f64(f64*, usize)"` or `"double(const double *x, size_t n)"`. It may be omitted if
    `target` has one. The function must not use the Python API or need the GIL, and any thread may
    call it. `target` is kept alive as long as the kernel and its jobs.

    Raises `KernelExistsError` if a kernel of that name exists and `replace` is false; running jobs
    of a replaced kernel are not affected. Raises another `KernelRegistrationError`, or `TypeError`,
    if `target` cannot be a kernel. Nothing is registered then.
    """
    from . import sources

    found = sources.resolve(target)
    if isinstance(found, sources.KernelCapsule):
        return _register_capsule(found.capsule, name, signature, doc, replace)
    signature = found.signature if signature is None else signature
    if signature is None:
        raise KernelSignatureError(
            f"kernel {name!r}: the signature of the function is needed: "
            f"register_kernel({name!r}, …, 'f64(f64*, usize)')"
        )
    return _register_address(
        name, found.address, signature, doc or "", found.owner, replace, found.data
    )


def load_kernels(
    path_or_module: str | bytes | os.PathLike[Any] | ModuleType, *, replace: bool = False
) -> list[Kernel]:
    """Register all kernels of a shared library, or of a Python module.

    The library is given by its path and exports `hybridloop_module()`. If there is no such file,
    the system looks for a library of that name. Of a Python module, the
    capsules "hybridloop.kernel.v1" among its attributes are registered. If it has none, but kernels
    among its attributes, it has registered them itself, and they are returned. Otherwise its file
    must be such a library. Either all kernels are registered or none. Raises the exceptions of
    `register_kernel()`. A library is never unloaded.
    """
    if not isinstance(path_or_module, ModuleType):
        path = os.fsdecode(path_or_module)
        # The system looks for a name without a slash in its own directories only.
        return _load_library(os.path.abspath(path) if os.path.exists(path) else path, replace)
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
    own = {value for value in vars(module).values() if isinstance(value, Kernel)}
    if own:
        return sorted(own, key=lambda kernel: kernel.name)
    file = getattr(module, "__file__", None)
    if not file or file.endswith((".py", ".pyc")):
        raise KernelLibraryError(f"module {module.__name__!r} has no kernels")
    return _load_library(file, replace)


def get_include() -> str:
    """The directory of `hybridloop.h`, for the `-I` option of C compilers."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")
