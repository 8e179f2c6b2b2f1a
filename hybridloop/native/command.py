"""`python -m hybridloop kernels`: lists, describes and runs kernels, writes types and projects."""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import importlib
import os
import shlex
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

from .._core import Kernel, NativeBuffer, run_native
from .command_arguments import parse_arguments
from .declared import declarations
from .registry import kernels, load_kernels
from .signatures import defaults, parameters
from .template import LANGUAGES, ProjectError, make_project

__all__ = ["main"]

_PROGRAM = "python -m hybridloop kernels"
_DESCRIPTION = """\
Lists the native kernels, describes those with a NAME, or runs one. A NAME may have the wildcards of
the shell. Built-in kernels, those of installed packages, and those of --load are known. --new NAME
[DIRECTORY] begins a package with kernels of its own.
"""
_EPILOG = """\
arguments of --run:
  VALUE              a number, true, false, or text; 'none' where the kernel takes None
  NAME=VALUE         an argument by the name of its parameter
  1,2.5,0*100        numbers, the last one a hundred times, for pointers and arrays
  f64:1,2.5          such numbers, where the kernel takes a buffer of any type
  @PATH, @-          the content of a file, or of the standard input
Write -- before arguments that begin with a dash. What the kernel emits is printed line by line,
then its result, then each buffer that it has written. Bytes that are no text are printed in
hexadecimal.

examples:
  python -m hybridloop kernels 'hl.*'
  python -m hybridloop kernels --run hl.crc32 @README.md start=5
  python -m hybridloop kernels --run hl.zstd.compress @data.json --output data.json.zst
  python -m hybridloop kernels --stubs ./libdemo.so > demo.pyi
  python -m hybridloop kernels --new my_kernels --language c
"""


class _CommandError(Exception):
    """The command cannot be done."""


def main(argv: list[str]) -> int:
    """Run the command. Returns 1 if that fails, 2 for wrong arguments."""
    arguments = _parser().parse_intermixed_args(argv)
    try:
        for target in arguments.load:
            _load(target)
        return _run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has closed the pipe. Do not write again at exit.
        sys.stdout = None
        return 0
    except Exception as error:
        explained = isinstance(error, (_CommandError, ProjectError))
        kind = "" if explained else f"{type(error).__name__}: "
        print(f"{_PROGRAM}: {kind}{error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        _PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--run", action="store_true", help="run the kernel NAME with the arguments after it"
    )
    what.add_argument(
        "--stubs",
        action="store_true",
        help="write Python declarations with the types of the kernels, for type checkers; NAME may "
        "also be a library, or a Python module with kernels",
    )
    what.add_argument(
        "--new",
        action="store_true",
        help="write a Python package NAME with kernels, types and tests, to be built with pip",
    )
    parser.add_argument(
        "--language",
        choices=LANGUAGES,
        default=LANGUAGES[0],
        help="with --new: that of the kernels (default: %(default)s)",
    )
    parser.add_argument(
        "--load",
        action="append",
        default=[],
        metavar="LIBRARY",
        help="load the kernels of a shared library, or of a Python module, before; may be repeated",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="with --run: write the bytes of the result to a file"
    )
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="with --run: the limit for the kernel"
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    names: list[str] = arguments.names
    if arguments.run:
        if not names:
            raise _CommandError("--run needs the name of a kernel")
        kernel = kernels[names[0]]
        positional, named = parse_arguments(kernel, names[1:])
        asyncio.run(_run_kernel(kernel, positional, named, arguments))
    elif arguments.new:
        _new(names, arguments.language)
    elif arguments.stubs:
        found: dict[tuple[str | None, Kernel], None] = {}
        for target in names or ["*"]:
            found.update(dict.fromkeys(_targets(target)))
        print(declarations(found), end="")
    elif names:
        selected = dict.fromkeys(kernel for name in names for kernel in _matching(name))
        print("\n\n".join(map(_describe, selected)))
    else:
        _list()
    return 0


def _new(names: list[str], language: str) -> None:
    if not 1 <= len(names) <= 2:
        raise _CommandError(
            "--new needs a name, and may have a directory: --new my_kernels ./kernels"
        )
    directory = Path(names[-1])
    make_project(names[0], directory, language)
    print(f"{directory} has a package with kernels. To build and test it:\n")
    print(f"    cd {shlex.quote(str(directory))}\n    pip install -e '.[test]'\n    pytest")


def _list() -> None:
    width = max(len(name) for name in kernels)
    for name in sorted(kernels):
        print(f"{name:<{width}}  {kernels[name].signature or ''}".rstrip())


def _matching(name: str) -> list[Kernel]:
    """The kernels of a name, or of a pattern."""
    if not any(wildcard in name for wildcard in "*?["):
        return [kernels[name]]
    found = [kernels[other] for other in sorted(kernels) if fnmatch.fnmatchcase(other, name)]
    if not found:
        raise _CommandError(f"no kernel matches {name!r}")
    return found


def _load(target: str) -> list[tuple[str | None, Kernel]]:
    """Load a library or a module: its kernels, with their attributes if they have any."""
    if os.path.exists(target) or os.sep in target:
        return [(None, kernel) for kernel in load_kernels(target, replace=True)]
    module = _import(target)
    attributes: list[tuple[str | None, Kernel]] = [
        (name, value) for name, value in vars(module).items() if isinstance(value, Kernel)
    ]
    return attributes or [(None, kernel) for kernel in load_kernels(module, replace=True)]


def _import(name: str) -> ModuleType:
    # As `python -m` does, although this module was started from somewhere else.
    if "" not in sys.path and not sys.flags.safe_path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise _CommandError(f"{name!r} is neither a file nor a module") from error


def _targets(target: str) -> list[tuple[str | None, Kernel]]:
    """What a name of --stubs stands for: kernels, a library, or a module."""
    if any(wildcard in target for wildcard in "*?[") or target in kernels:
        return [(None, kernel) for kernel in _matching(target)]
    return _load(target)


def _describe(kernel: Kernel) -> str:
    lines = [f"{kernel.name}: {kernel.signature or '(any arguments)'}"]
    if kernel.doc:
        lines += ["", *textwrap.wrap(" ".join(kernel.doc.split()), 98)]
    own = parameters(kernel)
    if own:
        lines.append("")
        width = max(len(parameter.name) for parameter in own)
        for parameter, default in zip(own, defaults(own), strict=True):
            kind = f"{'out ' * parameter.out}{parameter.type}{'?' * parameter.optional}"
            text = f"  {parameter.name:<{width}}  {kind}"
            lines.append(f"{text} = {default[0]!r}" if default else text)
    return "\n".join(lines)


async def _run_kernel(
    kernel: Kernel, positional: list[Any], named: dict[str, Any], arguments: argparse.Namespace
) -> None:
    job = run_native(kernel, *positional, timeout=arguments.timeout, **named)
    async for item in job:
        print(_text(item), flush=True)
    result = await job
    if arguments.output is not None:
        if not isinstance(result, (NativeBuffer, str)):
            raise _CommandError(f"the result is {_text(result)}, and no bytes for --output")
        data = result.encode() if isinstance(result, str) else result.tobytes()
        with open(arguments.output, "wb") as file:
            file.write(data)
    elif result is not None:
        print(_text(result))
    for place, parameter in enumerate(parameters(kernel) or ()):
        if parameter.out:
            value = positional[place] if place < len(positional) else named.get(parameter.name)
            written = None if value is None else memoryview(value).tolist()
            print(f"{parameter.name} = {written}")


def _text(value: Any) -> str:
    if isinstance(value, (int, float, str, type(None))):
        return str(value)
    view = memoryview(value)
    if view.format != "B" or view.ndim != 1:
        return str(view.tolist())
    data = view.tobytes()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data.hex()
    return text if text.isprintable() else data.hex()
