"""The programs of docs/recipes.md print what they promise, and their latency is measured."""

import shutil
from pathlib import Path

import pytest

from benchmarks import recipes
from tests.docs.pages import blocks

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "recipes.md"
TARGET = str(ROOT / "target" / "kernels")

needs_cargo = pytest.mark.skipif(shutil.which("cargo") is None, reason="there is no Rust compiler")


def test_passwords(run_example):
    assert run_example("examples.recipes.passwords") == [
        "stored: $argon2id$v=19$m=19456,t=2,p=1",
        "right",
        "wrong",
        "refused: hl.argon2id.verify: memory: 19456 is more than max_memory, which is 1024",
    ]


def test_compression(run_example):
    assert run_example("examples.recipes.compression") == [
        "as gzip does: True",
        "refused: hl.gzip.decompress: the result has more than 65536 bytes",
        "16 frames are one: True",
    ]


def test_sorting(run_example):
    assert run_example("examples.recipes.sorting") == [
        "as numpy does: True",
        "the places: True",
        "a histogram: (4,) int64",
    ]


@needs_cargo
@pytest.mark.timeout(900)
def test_json(run_example):
    lines = run_example("examples.recipes.json_parts", timeout=880, CARGO_TARGET_DIR=TARGET)
    assert lines == [
        "1.2 MB",
        "/page {'count': 12000, 'next': None}",
        "/items/11999/prices [1714.142857142857, 3999.6666666666665]",
        "KeyError: 'recipes.json_part: nothing is at \"/pages\"'",
        "ValueError: recipes.json_part: EOF while parsing an object at line 1 column 1208319",
    ]


@needs_cargo
@pytest.mark.timeout(900)
def test_a_tokenizer(run_example):
    lines = run_example("examples.recipes.tokenizer", timeout=880, CARGO_TARGET_DIR=TARGET)
    assert lines == [
        "['un', '##l', '##o', '##o', '##p', '##ing', 'sock', '##et', '##s', '.']",
        "30,000 tokens, as in Python: True; format 'I'",
        "1,000 texts, 30,000 tokens",
    ]


@needs_cargo
@pytest.mark.timeout(900)
def test_the_benchmark(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CARGO_TARGET_DIR", TARGET)
    recipes.report(recipes.RECIPES, 1, 0.05)
    out = capsys.readouterr().out
    head, _, *rows = [line.strip("| ").split(" | ") for line in out.splitlines() if "|" in line]
    assert head == [
        *("p99 idle", "p99 inline", "p99 executor", "p99 kernel"),
        *("calls inline", "calls executor", "calls kernel"),
    ]
    assert [row[0] for row in rows] == recipes.RECIPES
    assert all(float(cell) >= 0 for row in rows for cell in row[1:])
    page = PAGE.read_text()
    assert all(f"examples/recipes/{recipe}.py" in page for recipe in recipes.RECIPES)


def test_the_page_shows_what_is_built():
    source = (ROOT / "examples" / "recipes" / "rust" / "src" / "lib.rs").read_text()
    fragments = list(blocks(PAGE, "rust"))
    assert len(fragments) == 2
    assert all(fragment.source in source for fragment in fragments)
