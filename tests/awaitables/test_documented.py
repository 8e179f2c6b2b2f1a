"""The programs in docs/awaitables.md and in the header compile, and do what they say."""

import re
import subprocess
from pathlib import Path

import pytest

import hybridloop
from tests.docs.pages import ROOT, blocks

from .support import build, load, run

pytestmark = pytest.mark.improves_on_asyncio

PAGE = ROOT / "docs" / "awaitables.md"
BLOCKS = list(blocks(PAGE, "c"))


async def gives(value):
    return value


def test_the_first_program(tmp_path):
    source = tmp_path / "demo.c"
    source.write_text(BLOCKS[0].source)
    flags = ["-std=c99", "-Wno-unused-parameter"]
    demo = load(build(source, tmp_path, flags=flags), "demo")
    assert run(demo.fetch(lambda: gives(6), 7)) == 42
    with pytest.raises(TypeError, match="takes two arguments"):
        demo.fetch()
    assert demo.fetch.__doc__ == "Await get(), and multiply."


@pytest.mark.parametrize("block", BLOCKS[1:], ids=str)
def test_the_other_programs_compile(tmp_path, block):
    source = tmp_path / "part.c"
    source.write_text(f"#include <hybridloop_await.h>\n{block.source}")
    build(source, tmp_path, flags=["-std=c99", "-Wno-unused-parameter", "-Wno-unused-function"])


def test_the_program_of_the_header(tmp_path):
    header = (Path(hybridloop.get_include()) / "hybridloop_await.h").read_text()
    [program] = re.findall(
        r"^ \*     static int fetch.*?^ \*     }$", header, re.DOTALL | re.MULTILINE
    )
    source = tmp_path / "fetch.c"
    program = re.sub(r"^ \*     ?", "", program, flags=re.MULTILINE)
    struct = "struct fetch { PyObject *get, *number; };"
    source.write_text(f"#include <hybridloop_await.h>\n{struct}\n{program}")
    build(source, tmp_path, flags=["-std=c99", "-Wno-unused-function"])


def test_a_step_between_two_on_one_line_is_refused(tmp_path):
    source = tmp_path / "two.c"
    source.write_text(
        "#include <hybridloop_await.h>\n"
        "int two(hla_frame *f) { HLA_BEGIN(f); HLA_SLEEP0(f); HLA_SLEEP0(f); HLA_END(f); }\n"
    )
    with pytest.raises(subprocess.CalledProcessError):
        build(source, tmp_path)
