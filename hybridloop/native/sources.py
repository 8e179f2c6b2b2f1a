"""The kinds of targets of `register_kernel()`, and how their function and signature are found."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, NamedTuple

from .._core import _find_symbol, _read_capsule
from .errors import KernelAbiError, KernelRegistrationError, KernelSignatureError

CAPSULE = "hybridloop.kernel.v1"
"""The name of a capsule with a `hl_kernel` entry, which `hybridloop.h` declares."""

_ACCEPTED = (
    "a PyCapsule, a scipy.LowLevelCallable, a function pointer of ctypes or cffi, a cfunc of "
    "numba, an address, or a pair of a library and the name of a function"
)
_CALLS_PYTHON = "a Python function cannot be a kernel: kernels run without the GIL"
_NEEDS_GIL = "the function needs the GIL, and kernels run without it"
_FUNCFLAG_PYTHONAPI = 4


class NativeFunction(NamedTuple):
    """A plain C function."""

    address: int
    signature: str | None
    owner: Any
    """An object that must stay alive as long as the function may be called."""
    data: int = 0
    """The argument for its last parameter in every call, unless it is 0."""


class KernelCapsule(NamedTuple):
    """A capsule with a `hl_kernel` entry."""

    capsule: Any


def resolve(target: Any) -> NativeFunction | KernelCapsule:
    """Find the function or entry of a target; `TypeError` if it cannot be a kernel."""
    if isinstance(target, int) and not isinstance(target, bool):
        return NativeFunction(_address(target), None, None)
    if type(target).__name__ == "PyCapsule":
        return _capsule(target)
    if _is_instance_of(target, "scipy", "LowLevelCallable"):
        return _low_level_callable(target)
    if isinstance(target, tuple):
        return _symbol(target)
    if isinstance(target, ctypes._CFuncPtr):  # type: ignore[attr-defined]
        return _ctypes_function(target)
    if _is_instance_of(target, "_cffi_backend", "_CDataBase"):
        return _cffi_function(target)
    if _is_instance_of(target, "numba.core.ccallback", "CFunc"):
        # The CFunc owns the machine code.
        return _ctypes_function(target.ctypes)._replace(owner=target)
    hint = ""
    if callable(target):
        hint = f"; {_CALLS_PYTHON}. Compile it with numba.cfunc(), or pass a pointer to it"
    raise TypeError(f"cannot make a kernel of {type(target).__name__!r}: give {_ACCEPTED}{hint}")


def is_kernel_capsule(value: Any) -> bool:
    """Whether a value is a capsule with a `hl_kernel` entry."""
    return type(value).__name__ == "PyCapsule" and isinstance(_capsule(value), KernelCapsule)


def _is_instance_of(target: Any, module: str, name: str) -> bool:
    # There is no instance of the class unless its package was imported.
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and isinstance(target, found)


def _address(address: int) -> int:
    if not 0 < address <= sys.maxsize * 2 + 1:
        raise KernelRegistrationError(f"{address:#x} is not the address of a function")
    return address


def _capsule(capsule: Any) -> NativeFunction | KernelCapsule:
    name, address, context = _read_capsule(capsule)
    if name == CAPSULE:
        return KernelCapsule(capsule)
    if name and name.startswith("hybridloop.kernel."):
        raise KernelAbiError(
            f"the capsule has the name {name!r}; this version of hybridloop supports {CAPSULE!r}"
        )
    # SciPy and Cython put the signature into the name. The context of SciPy's capsule is user data.
    return NativeFunction(address, name if name and "(" in name else None, capsule, context)


def _low_level_callable(target: Any) -> NativeFunction | KernelCapsule:
    found = _capsule(tuple.__getitem__(target, 0))
    if isinstance(found, NativeFunction):
        _check_native(target.function)
        found = found._replace(owner=target)
    return found


def _symbol(target: tuple[Any, ...]) -> NativeFunction:
    match target:
        case (None, str(name)):
            path = None
        case (str() | bytes() | os.PathLike() as library, str(name)):
            path = os.fsdecode(library)
        case _:
            raise TypeError(
                "a pair of a library and the name of a function is expected: ('libm.so.6', 'cbrt')"
            )
    return NativeFunction(_find_symbol(path, name), None, None)


def _check_native(function: Any) -> None:
    if isinstance(function, ctypes._CFuncPtr):  # type: ignore[attr-defined]
        if function._flags_ & _FUNCFLAG_PYTHONAPI:
            raise KernelRegistrationError(_NEEDS_GIL)
        parts = (function._objects or {}).values()
        if any(type(part).__name__ == "CThunkObject" for part in parts):
            raise KernelRegistrationError(_CALLS_PYTHON)
    elif type(function).__name__ == "__CDataOwnGC":
        raise KernelRegistrationError(_CALLS_PYTHON)


def _ctypes_function(function: Any) -> NativeFunction:
    _check_native(function)
    address = ctypes.cast(function, ctypes.c_void_p).value
    signature = None
    if function.argtypes is not None:
        parameters = ", ".join(map(_ctypes_type, function.argtypes))
        signature = f"{_ctypes_type(function.restype)}({parameters})"
    return NativeFunction(_address(address or 0), signature, function)


_TYPE_KINDS = {"b": "i", "h": "i", "i": "i", "l": "i", "q": "i", "c": "i"} | {
    "B": "u",
    "H": "u",
    "I": "u",
    "L": "u",
    "Q": "u",
    "f": "f",
    "d": "f",
}


def _ctypes_type(kind: Any) -> str:
    if kind is None:
        return "void"
    dtype = getattr(kind, "_dtype_", None)  # numpy.ctypeslib.ndpointer()
    if dtype is not None and dtype.isnative and dtype.kind in "iuf" and dtype.itemsize <= 8:
        return f"{dtype.kind}{8 * dtype.itemsize}*"
    code = getattr(kind, "_type_", None)
    if code == "?":
        return "bool"
    if isinstance(code, str) and code in "Pz":
        return "void*"
    if isinstance(code, str) and code in _TYPE_KINDS:
        return f"{_TYPE_KINDS[code]}{8 * ctypes.sizeof(kind)}"
    if isinstance(kind, type) and issubclass(kind, ctypes._Pointer):
        inner = _ctypes_type(code)
        if not inner.endswith("*"):
            return f"{inner}*"
    name = getattr(kind, "__name__", repr(kind))
    raise KernelSignatureError(f"kernels take numbers and pointers to numbers, not ctypes' {name}")


def _cffi_function(pointer: Any) -> NativeFunction:
    _check_native(pointer)
    ffi = sys.modules["_cffi_backend"].FFI()
    kind = ffi.typeof(pointer)
    if kind.kind == "pointer" and kind.item.kind == "void":
        return NativeFunction(_address(int(ffi.cast("uintptr_t", pointer))), None, pointer)
    if kind.kind != "function":
        raise KernelRegistrationError(f"{kind.cname!r} is not a pointer to a function")
    if kind.ellipsis:
        raise KernelSignatureError(f"{kind.cname!r} takes any number of arguments")
    parameters = ", ".join(map(_cffi_type, kind.args))
    signature = f"{_cffi_type(kind.result)}({parameters})"
    return NativeFunction(_address(int(ffi.cast("uintptr_t", pointer))), signature, pointer)


def _cffi_type(kind: Any) -> str:
    if kind.kind in ("void", "primitive"):
        return str(kind.cname)
    if kind.kind == "enum":
        return "int"
    if kind.kind == "pointer" and kind.item.kind in ("void", "primitive"):
        return f"{kind.item.cname}*"
    raise KernelSignatureError(f"kernels take numbers and pointers to numbers, not {kind.cname!r}")
