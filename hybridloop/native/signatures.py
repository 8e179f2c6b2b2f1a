"""The signatures of kernels in terms of Python."""

from __future__ import annotations

import inspect
import keyword
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from .._core import Channel, Kernel, NativeBuffer, NativeJob

if typing.TYPE_CHECKING:
    from typing_extensions import Buffer
else:
    try:
        from collections.abc import Buffer
    except ImportError:
        # Python 3.11
        Buffer = typing.NewType("Buffer", object)

OPTIONS: dict[str, tuple[Any, Any]] = {
    "key": (str | bytes | None, None),
    "timeout": (float | None, None),
    "priority": (int, 0),
    "on_progress": (Callable[[int, int], object] | None, None),
    "cancel_policy": (typing.Literal["wait", "detach"], "wait"),
}
"""The annotation and the default of each option of a job. `out` is missing: it is another name of
the parameter that is written."""


class Parameter(NamedTuple):
    """A parameter of a kernel."""

    name: str
    type: str
    """`"f64"`, `"[f64]"`, `"f64*"`, `"bytes"`, …"""
    out: bool
    """Whether the kernel writes to it."""
    optional: bool
    """Whether it may be None."""
    default: tuple[()] | tuple[Any]

    @property
    def may_be_omitted(self) -> bool:
        return self.optional or self.default != ()

    @property
    def is_nullable(self) -> bool:
        return self.optional or self.type == "void*"

    @property
    def annotation(self) -> Any:
        """Its type in Python."""
        found: Any = _ARGUMENTS.get(self.type, Buffer)
        return found | None if self.is_nullable else found


_NUMBERS = {
    "bool": bool,
    **dict.fromkeys(("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"), int),
    **dict.fromkeys(("f32", "f64"), float),
}
_ARGUMENTS = {**_NUMBERS, "str": str, "key": str | bytes, "chan": Channel, "any": Any}
_RESULTS = {**_NUMBERS, "none": None, "str": str, "any": Any}


def format_signature(result: str, found: list[Parameter]) -> str:
    """The text of a signature."""
    return f"{result}({', '.join(_format_parameter(parameter) for parameter in found)})"


def _format_parameter(parameter: Parameter) -> str:
    text = f"{'out ' * parameter.out}{parameter.type}{'?' * parameter.optional} {parameter.name}"
    if not parameter.default:
        return text
    default = parameter.default[0]
    return f"{text} = {str(default).lower() if isinstance(default, bool) else default}"


def parameters(kernel: Kernel) -> list[Parameter] | None:
    """The parameters of a kernel; `None` if it checks its arguments itself."""
    types = kernel._types()
    return None if types is None else [Parameter(*parameter) for parameter in types[1]]


def result(kernel: Kernel) -> Any:
    """The type of a kernel's result in Python."""
    types = kernel._types()
    return Any if types is None else _RESULTS.get(types[0], NativeBuffer)


def named(found: list[Parameter]) -> list[tuple[str, bool]]:
    """A name for each parameter, and whether it can be used as a keyword.

    Where a name is a keyword of Python or that of an option, that parameter and those before it are
    given by position.
    """
    hidden = [keyword.iskeyword(parameter.name) or parameter.name in OPTIONS for parameter in found]
    last = max((place for place, is_hidden in enumerate(hidden) if is_hidden), default=-1)
    return [
        (parameter.name + "_" * hidden[place], place > last)
        for place, parameter in enumerate(found)
    ]


def defaults(found: list[Parameter]) -> list[tuple[()] | tuple[Any]]:
    """The defaults, without those before a parameter that has none."""
    given: list[tuple[()] | tuple[Any]] = []
    for parameter in reversed(found):
        missing = given and given[-1] == ()
        if missing or not parameter.may_be_omitted:
            given.append(())
        else:
            given.append(parameter.default or (None,))
    return given[::-1]


def kernel_signature(kernel: Kernel) -> inspect.Signature:
    """The signature of a call: the parameters by their names, and the options of a job."""
    found = parameters(kernel)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=type_)
        for name, (type_, default) in OPTIONS.items()
    ]
    own: list[inspect.Parameter] = []
    if found is None:
        own.append(inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL, annotation=Any))
        out = inspect.Parameter(
            "out", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Buffer | None
        )
        options.insert(0, out)
    else:
        for parameter, (name, by_name), default in zip(
            found, named(found), defaults(found), strict=True
        ):
            own.append(
                inspect.Parameter(
                    name,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD
                    if by_name
                    else inspect.Parameter.POSITIONAL_ONLY,
                    default=default[0] if default else inspect.Parameter.empty,
                    annotation=parameter.annotation,
                )
            )
    returned: Any = NativeJob.__class_getitem__(result(kernel))
    return inspect.Signature([*own, *options], return_annotation=returned)
