"""`hybridloop.kernel()`: kernels that numba compiles of Python functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .._core import Kernel, _parse_signature
from .errors import KernelSignatureError
from .registry import register_kernel
from .signatures import Parameter, format_signature

_NUMBERS = {
    # A bool of C is a byte.
    "bool": "uint8",
    **{f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"f{bits}": f"float{bits}" for bits in (32, 64)},
}


def kernel(
    signature: str,
    *,
    name: str | None = None,
    replace: bool = False,
    doc: str | None = None,
    **options: Any,
) -> Callable[[Callable[..., Any]], Kernel]:
    """Compile a Python function with numba, and register it as a kernel.

    For example::

        @hybridloop.kernel("f64(f64* values, usize n)")
        def mean(values, n):
            return numba.carray(values, n).mean()

        await mean(array, len(array))

    Parameters without a name in the signature get that of the function. `numba.carray()` makes an
    array of a pointer; lengths are parameters. numba prints an exception of the function to stderr,
    and the kernel returns 0 then.

    Args:
        name: by default that of the function, with its module and class. A kernel of that name is
            replaced, so that modules can be reloaded and cells of notebooks run again.
        replace: whether a kernel with the given name is replaced.
        doc: by default that of the function.
        options: for `numba.cfunc()`, such as `cache=True` or `fastmath=True`.
    """
    if not isinstance(signature, str):
        raise TypeError("a signature is needed: @hybridloop.kernel('f64(f64* values, usize n)')")
    result, found = _parse_signature(signature)
    parameters = [Parameter(*parameter) for parameter in found]

    def compile_kernel(function: Callable[..., Any]) -> Kernel:
        try:
            import numba
        except ImportError as error:
            raise ImportError("hybridloop.kernel() needs numba: pip install numba") from error
        own = list(inspect.signature(function).parameters)
        if len(own) != len(parameters):
            raise KernelSignatureError(
                f"{function.__qualname__}() has {len(own)} parameters, "
                f"and the signature {signature!r} has {len(parameters)}"
            )
        named = [
            parameter._replace(name=own[place]) if parameter.name == f"arg{place}" else parameter
            for place, parameter in enumerate(parameters)
        ]
        types = [_numba_type(numba, parameter.type, signature) for parameter in named]
        returned = _numba_type(numba, result, signature)
        compiled = numba.cfunc(returned(*types), **options)(function)
        return register_kernel(
            f"{function.__module__}.{function.__qualname__}" if name is None else name,
            compiled,
            format_signature(result, named),
            replace=replace or name is None,
            doc=inspect.getdoc(function) if doc is None else doc,
        )

    return compile_kernel


def _numba_type(numba: Any, kind: str, signature: str) -> Any:
    """The type of numba for a type in a signature."""
    if kind == "none":
        return numba.types.void
    if kind == "void*":
        return numba.types.voidptr
    number = _NUMBERS.get(kind.removesuffix("*"))
    if number is None:
        raise KernelSignatureError(
            f"{signature!r}: a compiled kernel takes numbers and pointers to numbers, such as "
            f"'f64* values, usize n', and returns a number, not {kind!r}"
        )
    found = getattr(numba.types, number)
    return numba.types.CPointer(found) if kind.endswith("*") else found
