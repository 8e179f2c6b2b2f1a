"""Check which Rust modules import which: no circles, neither of files nor of folders, and layers.

`make lint` runs it; `python tests/lint/rust_layers.py src/kernels` checks one place only.

A module is a file, and a folder's `mod.rs` stands for the folder's own file, not for the files
beside it. A file imports another if it names it: in `use`, or in a path that begins with `crate`,
`self`, `super` or a module that the file declares. A name counts for the file that the path leads
to, also if that file only re-exports it: a file that imports a type from its own `mod.rs` depends
on everything that `mod.rs` imports. Parts under `#[cfg(test)]` are left out.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Places whose modules must not import each other in a circle; each crate is one of its own.
ACYCLIC = ["crates/*/src", "src/transports", "src/streams", "src/kernels", "src/awaitables"]

# Which folders of a place each folder may import. The crate's root may import all, nobody the root.
LAYERS = {
    "src": {
        "python": [],
        "allocator": ["python"],
        "event_loop": ["allocator", "python"],
        "transports": ["event_loop", "allocator", "python"],
        "streams": ["transports", "event_loop", "allocator", "python"],
        "kernels": ["event_loop", "allocator", "python"],
        "awaitables": ["kernels", "event_loop", "allocator", "python"],
    },
}

# How many places of one import are shown.
SHOWN = 3

Module = tuple[str, ...]
# The places where each module imports another.
Graph = dict[Module, dict[Module, list[str]]]


@dataclass
class Crate:
    """The modules of a crate and their imports."""

    source: Path
    files: dict[Module, Path]
    imports: Graph = field(default_factory=dict)

    def name(self, module: Module) -> str:
        return "::".join(("crate", *module))


def blank(text: str) -> str:
    """Replace comments, strings and characters by spaces, so that what is left is code."""
    pattern = re.compile(
        r"""//[^\n]* | (?P<block>/\*) | (?<![\w])b?r(?P<hash>\#*)".*?"(?P=hash)
        | b?"(?:\\.|[^"\\])*" | b?'(?:\\(?:x..|u\{[^}]*\}|.)|[^'\\\n])'""",
        re.VERBOSE | re.DOTALL,
    )
    parts: list[str] = []
    at = 0
    while found := pattern.search(text, at):
        end = found.end()
        if found["block"]:
            depth = 1
            while depth and (mark := re.compile(r"/\*|\*/").search(text, end)):
                depth += 1 if mark[0] == "/*" else -1
                end = mark.end()
        parts += [text[at : found.start()], re.sub(r"[^\n]", " ", text[found.start() : end])]
        at = end
    return "".join([*parts, text[at:]])


def block_end(code: str, start: int) -> int:
    """The end of the item that begins at `start`: its semicolon, or its last brace."""
    depth = 0
    for at in range(start, len(code)):
        if code[at] in "{([":
            depth += 1
        elif code[at] in "})]":
            depth -= 1
            if depth == 0 and code[at] == "}":
                return at + 1
        elif code[at] == ";" and depth == 0:
            return at + 1
    return len(code)


def cut(code: str, start: int, end: int) -> str:
    return code[:start] + re.sub(r"[^\n]", " ", code[start:end]) + code[end:]


def without_tests(code: str) -> str:
    for found in re.finditer(r"#\[cfg\(([^\]]*)\)\]", code):
        if re.search(r"(?<!not\()\btest\b", found[1]):
            item = found.end()
            while attribute := re.compile(r"\s*#\[[^\]]*\]").match(code, item):
                item = attribute.end()
            code = cut(code, found.start(), block_end(code, item))
    return code


def use_paths(tree: str) -> Iterator[list[str]]:
    """Yield the paths of `a::{b, c::{self, d}}`."""
    tree = tree.strip()
    head, brace, rest = tree.partition("{")
    names = [name for name in re.split(r"\s*::\s*", head.strip()) if name]
    if not brace:
        if names:
            yield [*names[:-1], names[-1].split()[0]]
        return
    depth, start = 0, 0
    inner = rest.rstrip()[:-1] + ","
    for at, char in enumerate(inner):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            for path in use_paths(inner[start:at]):
                yield [*names, *([] if path == ["self"] else path)]
            start = at + 1


def inline_modules(code: str) -> list[tuple[int, int, str]]:
    found = re.finditer(r"\bmod\s+(\w+)\s*(?=\{)", code)
    return [(mod.end(), block_end(code, mod.end()), mod[1]) for mod in found]


def named_paths(code: str) -> Iterator[tuple[int, list[str]]]:
    """Yield every path of a file that may lead to a module of the crate, with its place."""
    for visibility in re.finditer(r"\bpub\s*\(in\s[^)]*\)", code):
        code = cut(code, visibility.start(), visibility.end())
    uses = list(re.finditer(r"\buse\s+([^;]+);", code))
    for use in uses:
        for path in use_paths(use[1]):
            yield use.start(), path
    for use in uses:
        code = cut(code, use.start(), use.end())
    for found in re.finditer(r"(?<![\w:.])(\$?\w+(?:\s*::\s*\w+)+)", code):
        yield found.start(), re.split(r"\s*::\s*", found[1])


def read_crate(source: Path) -> Crate:
    """Read the modules below a folder with a `lib.rs`."""
    files = {}
    for file in sorted(source.rglob("*.rs")):
        *folders, name = file.relative_to(source).with_suffix("").parts
        files[tuple(folders if name in ("mod", "lib") else [*folders, name])] = file
    crate = Crate(source, files)
    codes = {module: without_tests(blank(file.read_text())) for module, file in files.items()}
    macros = {
        macro: module
        for module, code in codes.items()
        for macro in re.findall(r"#\[macro_export\]\s*macro_rules!\s*(\w+)", code)
    }
    for module, code in codes.items():
        imports = crate.imports.setdefault(module, {})
        inline = inline_modules(code)
        for at, path in named_paths(code):
            here = (*module, *(name for start, end, name in inline if start < at < end))
            target = resolve(here, path, files, macros)
            if target is None or target == module or (path[0] == "$crate" and not target):
                continue
            line = code.count("\n", 0, at) + 1
            where = f"{files[module]}:{line}"
            if where not in imports.setdefault(target, []):
                imports[target].append(where)
    return crate


def resolve(
    here: Module, path: list[str], files: Iterable[Module], macros: dict[str, Module]
) -> Module | None:
    """The module that a path leads to; `None` if it is of another crate."""
    names = list(path)
    base = list(here)
    if names[0] in ("crate", "$crate"):
        base = []
        names.pop(0)
    elif names[0] in ("self", "super"):
        if names[0] == "self":
            names.pop(0)
        while names and names[0] == "super":
            names.pop(0)
            base = base[:-1]
    elif (*here, names[0]) not in files:
        return None
    if not base and names and names[0] in macros and (names[0],) not in files:
        return macros[names[0]]
    target = [*base, *names]
    while tuple(target) not in files:
        target.pop()
    return tuple(target)


def circles(graph: Graph) -> list[list[Module]]:
    """Groups of modules each of which leads to each other (Tarjan's algorithm)."""
    index: dict[Module, int] = {}
    low: dict[Module, int] = {}
    stack: list[Module] = []
    groups: list[list[Module]] = []

    def visit(module: Module) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[-len(group) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return groups


def places(where: list[str], root: Path) -> str:
    shown = [place.removeprefix(f"{root}/") for place in where[:SHOWN]]
    more = len(where) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more else [])])


def check_circles(crate: Crate, within: Module, root: Path) -> Iterator[str]:
    """Say which modules below `within` import each other in a circle, or which folders do."""
    depth = len(within)
    modules: Graph = {}
    folders: Graph = {}
    for module, imports in crate.imports.items():
        if module[:depth] != within:
            continue
        modules.setdefault(module, {})
        for other, where in imports.items():
            if other[:depth] != within:
                continue
            modules[module][other] = where
            # The file of the place itself may import all that is in it.
            folder, target = module[: depth + 1], other[: depth + 1]
            if folder != target and within not in (module, other):
                folders.setdefault(folder, {}).setdefault(target, []).extend(where)
                folders.setdefault(target, {})
    reported: set[Module] = set()
    for what, graph in (("modules", modules), ("folders", folders)):
        for group in circles(graph):
            if reported.issuperset(group):
                continue
            reported.update(group, (module[: depth + 1] for module in group))
            lines = [f"{len(group)} {what} import each other in a circle:"]
            for module in group:
                for other in sorted(graph[module].keys() & set(group)):
                    names = f"{crate.name(module)} -> {crate.name(other)}"
                    lines.append(f"    {names}  {places(graph[module][other], root)}")
            yield "\n".join(lines)


def check_layers(crate: Crate, allowed: dict[str, list[str]], root: Path) -> Iterator[str]:
    """Say which imports lead out of a folder into one that it must not know."""
    for module, imports in crate.imports.items():
        if not module:
            continue
        for other, where in sorted(imports.items()):
            if module[0] not in allowed:
                yield f"{crate.name(module)} is in no layer: add {module[0]} to the table"
                break
            if not other or (other[0] != module[0] and other[0] not in allowed[module[0]]):
                to = f"{crate.name(module)} must not import {crate.name(other)}"
                yield f"{to}  {places(where, root)}"


def source_of(place: Path) -> Path:
    """The folder with the `lib.rs` of the crate that a folder belongs to."""
    while not (place / "lib.rs").exists():
        place = place.parent
    return place


def check(root: Path, only: list[str]) -> list[str]:
    """Every broken rule; of the places that begin with one of `only`, if there are any."""
    errors: list[str] = []
    crates: dict[Path, Crate] = {}

    def crate_of(place: Path) -> Crate:
        source = source_of(place)
        return crates.setdefault(source, crates.get(source) or read_crate(source))

    def wanted(place: Path) -> bool:
        return not only or any(place.is_relative_to(root / name.rstrip("/")) for name in only)

    for place in (place for rule in ACYCLIC for place in sorted(root.glob(rule))):
        if wanted(place):
            crate = crate_of(place)
            errors += check_circles(crate, place.relative_to(crate.source).parts, root)
    for name, allowed in LAYERS.items():
        if wanted(root / name):
            errors += check_layers(crate_of(root / name), allowed, root)
    return errors


if __name__ == "__main__":
    errors = check(ROOT, sys.argv[1:])
    print("\n".join(errors or ["The modules of every crate are in layers."]))
    sys.exit(bool(errors))
