"""Conventions of the tests themselves."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("*.py"))
# Names with an underscore that are public, and fixtures under another name than their function.
PUBLIC = {"_exit"}
CHECKS = {"eventually", "raises", "warns"}


def name_of(path):
    return str(path.relative_to(TESTS))


def functions(tree):
    return [it for it in ast.walk(tree) if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef)]


def private_attributes(tree):
    """Attributes with an underscore that no class or function of the file itself defines."""
    own = {it.name for it in ast.walk(tree) if isinstance(it, ast.ClassDef)}
    own |= {it.name for it in functions(tree)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr[:1] == "_" and node.attr[:2] != "__":
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                own.add(node.attr)
            found.add(node.attr)
    return found - own - PUBLIC


def asserts(function):
    docstring = ast.get_docstring(function, clean=False)
    return any(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.Raise) and "AssertionError" in called(node))
        or (
            # A script for another process.
            isinstance(node, ast.Constant)
            and node.value != docstring
            and "assert" in str(node.value)
        )
        for node in ast.walk(function)
    )


def called(function):
    """The names of what a function calls, or passes on to be called."""
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_says_that_it_uses_private_attributes(path):
    tree = ast.parse(path.read_text())
    found = private_attributes(tree)
    assert not found or "private" in (ast.get_docstring(tree) or "").lower(), sorted(found)


def test_every_test_asserts_something():
    trees = {path: ast.parse(path.read_text()) for path in FILES}
    asserting = CHECKS | {
        function.name
        for tree in trees.values()
        for function in functions(tree)
        if asserts(function)
    }
    left = [
        f"{name_of(path)}: {function.name}"
        for path, tree in trees.items()
        for function in functions(tree)
        if function.name.startswith("test_")
        and function.name not in asserting
        and not asserting.intersection(called(function))
    ]
    assert left == []


def test_what_is_found():
    tree = ast.parse(
        "class A:\n def f(self): self._own\na._private; a._own; a.__class__; os._exit(0)"
    )
    assert private_attributes(tree) == {"_private"}
    [function] = functions(ast.parse("def test_it(): eventually(lambda: True)"))
    assert CHECKS.intersection(called(function)) == {"eventually"}
    assert not asserts(function)
    [function] = functions(ast.parse("def f():\n 'Does not assert.'\n raise ValueError"))
    assert not asserts(function)
    [function] = functions(ast.parse("def f(): run('assert found')"))
    assert asserts(function)
