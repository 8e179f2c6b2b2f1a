"""Arguments of kernels as texts, for `python -m hybridloop kernels --run`."""

from __future__ import annotations

import array
import re
import sys
from collections.abc import Callable
from typing import Any

from .._core import Kernel
from .signatures import Parameter, parameters

_TYPECODES = {
    "bool": "?",
    "i8": "b",
    "i16": "h",
    "i32": "i",
    "i64": "q",
    "u8": "B",
    "u16": "H",
    "u32": "I",
    "u64": "Q",
    "f32": "f",
    "f64": "d",
}
_WORDS = {"true": True, "false": False}


class ArgumentTextError(ValueError):
    """A text is not an argument for the parameter."""


def parse_arguments(kernel: Kernel, texts: list[str]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a kernel by position and by name.

    `name=value` is an argument by name if the kernel has such a parameter.
    """
    own = parameters(kernel) or []
    by_name = {parameter.name: parameter for parameter in own}
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name in by_name:
            named[name] = _parse(by_name[name], value)
        else:
            place = len(positional)
            parameter = own[place] if place < len(own) else _unknown(place)
            positional.append(_parse(parameter, text))
    return positional, named


def _unknown(place: int) -> Parameter:
    return Parameter(f"arg{place}", "any", False, False, ())


def _parse(parameter: Parameter, text: str) -> Any:
    try:
        if parameter.is_nullable and text == "none":
            return None
        return _parser(parameter)(text)
    except (ValueError, OverflowError, OSError) as error:
        raise ArgumentTextError(
            f"argument {parameter.name!r}: {text!r} is not a value of type {parameter.type}: "
            f"{error}"
        ) from error


def _parser(parameter: Parameter) -> Callable[[str], Any]:
    kind = parameter.type
    if kind in _TYPECODES:
        return _NUMBERS.get(kind, _int)
    if kind in ("str", "key"):
        return lambda text: _content(text).decode()
    if kind == "any":
        return _any
    if kind == "chan":
        raise ArgumentTextError(f"argument {parameter.name!r}: channels cannot be written as text")
    element = re.fullmatch(r"\[(\w+)\]|(\w+)\*", kind)
    scalar = element and (element[1] or element[2])
    if scalar in _TYPECODES:
        return lambda text: _elements(scalar, text.removeprefix(f"{scalar}:"))
    return _buffer


def _bool(text: str) -> bool:
    if text not in _WORDS:
        raise ValueError("true or false is expected")
    return _WORDS[text]


def _int(text: str) -> int:
    return int(text, 0)


_NUMBERS: dict[str, Callable[[str], Any]] = {"bool": _bool, "f32": float, "f64": float}


def _content(text: str) -> bytes:
    """The bytes of a text, or those of a file: `@PATH`, `@-` for the standard input."""
    if text == "@-":
        return sys.stdin.buffer.read()
    if text.startswith("@"):
        with open(text[1:], "rb") as file:
            return file.read()
    return text.encode()


def _elements(scalar: str, text: str) -> Any:
    """Numbers, such as `1,2.5,0*100`, or a file of them."""
    values: list[Any] = []
    if text.startswith("@"):
        data = _content(text)
    else:
        parse = _NUMBERS.get(scalar, _int)
        for item in filter(None, text.split(",")):
            value, times, count = item.partition("*")
            values += [parse(value.strip())] * (int(count) if times else 1)
        data = b""
    if scalar == "bool":
        return memoryview(bytearray(data or values)).cast("?")
    return array.array(_TYPECODES[scalar], data or values)


def _buffer(text: str) -> Any:
    """Numbers of a type, such as `f64:1,2.5`, or bytes."""
    scalar, colon, values = text.partition(":")
    if colon and scalar in _TYPECODES:
        return _elements(scalar, values)
    return bytearray(_content(text))


def _any(text: str) -> Any:
    """A number, a truth value, numbers of a type, or bytes."""
    if text in _WORDS:
        return _WORDS[text]
    for parse in (_int, float):
        try:
            return parse(text)
        except ValueError:
            pass
    return _buffer(text)
