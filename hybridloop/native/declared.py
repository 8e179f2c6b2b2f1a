"""Kernels with types that type checkers know: declarations, and the command that writes them."""

from __future__ import annotations

import keyword
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar, cast

from .._core import Kernel
from .registry import kernels
from .signatures import Parameter, defaults, named, parameters

_P = ParamSpec("_P")
_T = TypeVar("_T")

_WIDTH = 100


class JobOptions(TypedDict, total=False):
    """The options of a job: the keyword arguments of `run_native()` that are not the kernel's."""

    key: str | bytes | None
    timeout: float | None
    priority: int
    on_progress: Callable[[int, int], object] | None
    cancel_policy: Literal["wait", "detach"]


def typed_kernel(name: str) -> Callable[[Callable[_P, _T]], Kernel[_P, _T]]:
    """Declare the types of a kernel: a decorator that replaces a function by the kernel.

    The function has the parameters of the kernel and its result as annotations, and no body::

        @hybridloop.typed_kernel("hl.crc32")
        def crc32(data: Buffer, start: int = 0, **options: Unpack[JobOptions]) -> int: ...

    `python -m hybridloop kernels --stubs` writes such declarations.
    """

    def declare(function: Callable[_P, _T]) -> Kernel[_P, _T]:
        return cast("Kernel[_P, _T]", kernels[name])

    return declare


def declarations(found: Iterable[tuple[str | None, Kernel]]) -> str:
    """A module that declares kernels, each with the name of its attribute, if it has one.

    It can be used as a stub, and as a module.
    """
    all_kernels = list(found)
    names = _attributes(all_kernels)
    blocks = [
        _declaration(name, kernel) for name, (_, kernel) in zip(names, all_kernels, strict=True)
    ]
    code = "\n".join(blocks)
    typing_names = [name for name in ("Any", "Unpack") if re.search(rf"\b{name}\b", code)]
    own_names = [name for name in ("Channel", "NativeBuffer") if re.search(rf"\b{name}\b", code)]
    imported = [*sorted([*own_names, "JobOptions"]), "typed_kernel"]
    lines = [
        '# mypy: disable-error-code="empty-body"',
        '"""Native kernels. Made by `python -m hybridloop kernels --stubs`."""',
        "",
        "from __future__ import annotations",
        "",
        f"from typing import {', '.join(['TYPE_CHECKING', *sorted(typing_names)])}",
        "",
        f"from hybridloop import {', '.join(imported)}",
        "",
        "if TYPE_CHECKING:",
        "    from typing_extensions import Buffer",
        "",
    ]
    return "\n".join([*lines, "", "\n\n".join(blocks)])


def _attributes(found: list[tuple[str | None, Kernel]]) -> list[str]:
    """The names of the attributes: without the first parts that all names have in common."""
    parts = [kernel.name.split(".") for _, kernel in found]
    shared = 0
    while parts and all(len(name) > shared + 1 for name in parts):
        if len({name[shared] for name in parts}) > 1:
            break
        shared += 1
    names = []
    for (given, _), name in zip(found, parts, strict=True):
        attribute = given or re.sub(r"\W", "_", "_".join(name[shared:]))
        if attribute[0].isdigit():
            attribute = f"_{attribute}"
        names.append(attribute + "_" * keyword.iskeyword(attribute))
    taken = Counter(names)
    for place, (_, kernel) in enumerate(found):
        if taken[names[place]] > 1:
            names[place] = re.sub(r"\W", "_", kernel.name)
    return names


def _declaration(name: str, kernel: Kernel) -> str:
    own = parameters(kernel)
    texts = ["*args: Any", "out: Buffer | None = None"] if own is None else _parameters(own)
    options = "options"
    while own is not None and any(parameter.name == options for parameter in own):
        options += "_"
    texts.append(f"**{options}: Unpack[JobOptions]")
    types = kernel._types()
    returned = "Any" if types is None else _RESULTS.get(types[0], "NativeBuffer")
    head = f"def {name}({', '.join(texts)}) -> {returned}:"
    if len(head) > _WIDTH:
        # A parameter with ** ends the list of Python, and a comma may follow it.
        head = f"def {name}(\n    {', '.join(texts)}\n) -> {returned}:"
        if max(map(len, head.splitlines())) > _WIDTH:
            lines = "".join(f"    {text},\n" for text in texts)
            head = f"def {name}(\n{lines}) -> {returned}:"
    return f'@typed_kernel("{kernel.name}")\n{head}\n{_docstring(kernel)}'


def _parameters(own: list[Parameter]) -> list[str]:
    texts = []
    names = named(own)
    for parameter, (name, _), default in zip(own, names, defaults(own), strict=True):
        text = f"{name}: {_annotation(parameter)}"
        texts.append(f"{text} = {_literal(default[0])}" if default else text)
    by_position = sum(not by_name for _, by_name in names)
    if by_position:
        texts.insert(by_position, "/")
    return texts


_NUMBERS = {
    "bool": "bool",
    **dict.fromkeys(("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"), "int"),
    **dict.fromkeys(("f32", "f64"), "float"),
}
_ARGUMENTS = {**_NUMBERS, "str": "str", "key": "str | bytes", "chan": "Channel", "any": "Any"}
_RESULTS = {**_NUMBERS, "none": "None", "str": "str", "any": "Any"}


def _annotation(parameter: Parameter) -> str:
    found = _ARGUMENTS.get(parameter.type, "Buffer")
    return f"{found} | None" if parameter.is_nullable and found != "Any" else found


def _literal(value: Any) -> str:
    if isinstance(value, float) and not abs(value) < float("inf"):
        return f'float("{value}")'
    if isinstance(value, str):
        return '"' + repr(value)[1:-1].replace('"', '\\"') + '"'
    return repr(value)


def _docstring(kernel: Kernel) -> str:
    doc = re.sub(r'(["\\])', r"\\\1", kernel.doc) or "A native kernel."
    doc = " ".join(doc.split())
    # Without the indentation and the quotes.
    width = _WIDTH - 4 - 6
    if len(doc) <= width:
        return f'    """{doc}"""\n'
    lines = textwrap.wrap(doc, width)
    return f'    """{lines[0]}\n' + "".join(f"    {line}\n" for line in lines[1:]) + '    """\n'
