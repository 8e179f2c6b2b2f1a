"""README and docs refer to existing files, headings and names of the package."""

import importlib
import re
from pathlib import Path

import pytest

from hybridloop import kernels

from .pages import PAGES, ROOT

# The header, and the name of capsules.
NOT_PYTHON = {"hybridloop.h", "hybridloop.kernel.v1"}


def anchors(page):
    """The fragments that GitHub makes of headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if fragment:
            assert fragment in set(anchors(target)), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths(page):
    for path in re.findall(r"`((?:src|crates|hybridloop|tests)/[\w/.-]*)`", page.read_text()):
        assert (ROOT / path).exists(), path


def exists(dotted):
    parts = dotted.split(".")
    found = importlib.import_module(parts[0])
    for index, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[:index]))
            except ImportError:
                return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names(page):
    text = page.read_text()
    for name in re.findall(r"(?<![/\w.-])hybridloop(?:\.[A-Za-z_]\w*)+", text):
        assert name in NOT_PYTHON or exists(name), name


def test_built_in_kernels():
    page = (ROOT / "docs/kernels.md").read_text()
    table = page[page.index("## Built-in kernels") :]
    described = {}
    for names, signatures in re.findall(r"^\| (`hl\..*?) \| (.*) \|$", table, re.MULTILINE):
        names = [name for spelt in re.findall(r"`(.*?)`", names) for name in spell_out(spelt)]
        signatures = re.findall(r"`([^`]*\))`", signatures)
        if len(signatures) == 1:
            signatures *= len(names)
        described.update(zip(names, signatures, strict=True))
    built_in = {
        name: kernel.signature for name, kernel in kernels.items() if name.startswith("hl.")
    }
    assert described == built_in
    assert f"{len(built_in)} [built-in kernels]" in (ROOT / "README.md").read_text()


def spell_out(name):
    """`a.{b,c}.d` as `a.b.d` and `a.c.d`."""
    if found := re.fullmatch(r"(.*)\{(.*)\}(.*)", name):
        return [found[1] + middle + found[3] for middle in found[2].split(",")]
    return [name]


def test_no_paths_of_a_machine():
    for page in PAGES:
        found = re.findall(r"(?<![\w.])/(?:home|root|Users|work)/\S*", page.read_text())
        assert not found, (page, found)
    assert Path(ROOT / "README.md") in PAGES
