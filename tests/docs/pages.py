"""The pages that users read, and the code in them."""

import ast
import builtins
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *(ROOT / "docs").rglob("*.md")])


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    source: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page, language):
    text = page.read_text()
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if found[1] == language:
            yield Block(page, text.count("\n", 0, found.start()) + 2, language, found[2])


def is_session(block):
    return block.source.startswith(">>>")


def parse(block):
    """`await` may stand outside of functions, as in a fragment."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return compile(block.source, str(block), "exec", flags)


def is_program(block):
    """Whether it can be run as it is: it makes or imports each name that it uses."""
    if is_session(block):
        return False
    used, made = set(), set(dir(builtins)) | {"__name__"}
    for node in ast.walk(parse(block)):
        match node:
            case ast.Name(name, ast.Load()):
                used.add(name)
            case ast.Name(name):
                made.add(name)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                made.add(node.name)
            case ast.arg():
                made.add(node.arg)
            case ast.alias():
                made.add((node.asname or node.name).partition(".")[0])
    return used <= made


PYTHON = [block for page in PAGES for block in blocks(page, "python")]
PROGRAMS = [block for block in PYTHON if is_program(block)]
