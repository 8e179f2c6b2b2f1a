"""Extensions that were built with other versions of the header, and what they are told."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import hybridloop

from .support import LIMITED, build, finish, load

pytestmark = pytest.mark.improves_on_asyncio

HEADER = Path(hybridloop.get_include()) / "hybridloop_await.h"


@pytest.fixture
def changed(tmp_path):
    """``changed(pattern, replacement)`` makes a folder with a header that differs."""

    def changed(*changes):
        text = HEADER.read_text()
        for pattern, replacement in changes:
            text, count = re.subn(pattern, replacement, text, flags=re.DOTALL)
            assert count == 1, pattern
        folder = tmp_path / "include"
        folder.mkdir(exist_ok=True)
        (folder / HEADER.name).write_text(text)
        return folder

    return changed


# The table without its last two functions, as it would have been before these were added.
OLDER = [
    (r"    int \(\*add_functions\)[^;]*;\n    int \(\*add_methods\)[^;]*;\n", ""),
    (r"static inline int hla_add_functions.*?\n}\n", ""),
    (r"static inline int hla_add_methods.*?\n}\n", ""),
]
# The table with one more.
NEWER = [(r"\} hla_table;", "    int (*more)(void);\n} hla_table;")]
OTHER_ABI = [(r"#define HLA_ABI 1u", "#define HLA_ABI 2u")]


def test_the_layout(extension):
    """What was published does not move, and the table of the header is that of hybridloop."""
    layout = extension("layout")
    ours, theirs = layout.sizes()
    assert ours == theirs


@pytest.mark.parametrize("flags", [["-std=c99"], ["-std=c11"], ["-std=gnu17"]])
@pytest.mark.parametrize("defines", [{}, LIMITED])
@pytest.mark.parametrize("name", ["callbacks", "steps", "functions"])
def test_compilers(tmp_path, name, defines, flags):
    module = load(build(name, tmp_path, defines, flags), name)
    assert module.__name__ == name


def test_an_older_limited_api_is_refused(tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        build("layout", tmp_path, {"Py_LIMITED_API": "0x030A0000"})


async def gives(value):
    return value


def test_a_build_with_an_older_header(changed, tmp_path, callbacks):
    """It loads, and shares its coroutines with one built with this header (T2.5, T2.17)."""
    older = load(build("callbacks", tmp_path, include=changed(*OLDER)), "callbacks")
    assert older is not callbacks
    seen = []
    outer, inner = older.new(), callbacks.new()
    callbacks.add_await(inner, gives("awaited"), lambda aw, v: older.set_result(aw, v))
    older.add_await(outer, inner, lambda aw, v: seen.append(v))
    assert finish(outer) is None
    assert seen == ["awaited"]


@pytest.mark.parametrize("changes", [NEWER, OTHER_ABI], ids=["newer", "other ABI"])
@pytest.mark.parametrize("defines", [{}, {"WITHOUT_IMPORT": "1"}], ids=["import", "first use"])
def test_what_is_too_new_is_refused(changed, tmp_path, changes, defines):
    """The error names both versions (T2.5)."""
    text = HEADER.read_text()
    assert "uint32_t abi" in text
    path = build(
        "layout", tmp_path, {**LIMITED, **defines}, include=changed(*changes), flags=["-std=c11"]
    )
    with pytest.raises(ImportError) as caught:
        load(path, "layout").new()
    abi = "1" if changes is NEWER else "2"
    version = re.escape(hybridloop.__version__)
    pattern = rf"needs hybridloop with version {abi} .* hybridloop {version} has version 1 "
    assert re.search(pattern, str(caught.value))


SUBINTERPRETER = """
import sys

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

if sys.version_info >= (3, 13):
    create = lambda: interpreters.create("legacy")
    run = interpreters.exec
else:
    create = lambda: interpreters.create(isolated=False)
    run = interpreters.run_string

LOAD = '''
import importlib.util

def load():
    spec = importlib.util.spec_from_file_location("layout", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
'''.replace("PATH", repr(sys.argv[1]))

exec(LOAD)
load().new().close()
for _ in range(2):
    failure = run(create(), LOAD + '''
try:
    load().new()
except ImportError as error:
    assert "subinterpreters" in str(error), error
else:
    raise AssertionError("it was imported")
''')
    assert not failure, failure
load().new().close()
print("end")
"""


@pytest.mark.parametrize("defines", [{}, {"WITHOUT_IMPORT": "1"}], ids=["import", "first use"])
def test_subinterpreters_are_refused(tmp_path, defines):
    """hybridloop does not support them; an extension that knows the table is told so (T2.17)."""
    path = build("layout", tmp_path, {**LIMITED, **defines}, flags=["-std=c11"])
    done = subprocess.run(
        [sys.executable, "-c", SUBINTERPRETER, path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


def test_the_folder_of_the_headers():
    names = {path.name for path in Path(hybridloop.get_include()).iterdir()}
    assert names == {"hybridloop.h", "hybridloop_await.h", "pyawaitable.h"}
    root = Path(__file__).parents[2] / "include"
    with warnings.catch_warnings():
        for name in names:
            assert (root / name).resolve() == (Path(hybridloop.get_include()) / name).resolve()
