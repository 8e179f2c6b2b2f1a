"""The checker of Rust imports finds circles and wrong directions, and nothing else."""

import pytest

from tests.lint import rust_layers


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.setattr(rust_layers, "ACYCLIC", ["src"])
    monkeypatch.setattr(rust_layers, "LAYERS", {"src": {"low": [], "high": ["low"]}})

    def check(**files: str) -> list[str]:
        for name, text in {"lib": "", **files}.items():
            file = tmp_path / "src" / f"{name.replace('__', '/')}.rs"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return rust_layers.check(tmp_path, [])

    return check


def test_a_circle_is_reported_with_its_lines(check):
    [error] = check(
        low__a="\nuse crate::low::{b::B, c};", low__b="fn f() { super::a::f() }", low__c=""
    )
    assert error.splitlines()[1:] == [
        "    crate::low::a -> crate::low::b  src/low/a.rs:2",
        "    crate::low::b -> crate::low::a  src/low/b.rs:1",
    ]


@pytest.mark.parametrize(
    "child",
    [
        "use super::Shared;",
        "use crate::low::Shared as S;",
        "use crate::low::*;",
        "use crate::{low::{Shared}};",
        "pub fn f(it: &crate::low::Shared) {}",
        "mod inner { use super::super::Shared; }",
    ],
)
def test_a_file_that_uses_its_own_folder_is_in_a_circle_with_it(check, child):
    parent = "mod child; pub struct Shared; fn f() { child::f() }"
    [error] = check(low__mod=parent, low__child=child)
    assert "crate::low::child -> crate::low  src/low/child.rs:1" in error


@pytest.mark.parametrize(
    "child",
    [
        "// use super::Shared;",
        "/* /* */ use super::Shared; */",
        'const TEXT: &str = "use super::Shared;";',
        'const TEXT: &str = r#"" use super::Shared;"#;',
        "pub(in crate::low) fn f<'a>(_: &'a str) -> char { '\"' }",
        "mod inner { use super::f; }",
        "#[cfg(test)]\nmod tests { use super::super::Shared; }",
        "#[cfg(all(test, not(loom)))] #[allow(x)] use super::Shared;",
        "use other::super_::Shared;",
    ],
)
def test_what_is_no_import_is_not_reported(check, child):
    parent = "mod child; pub struct Shared; fn f() { child::f() }"
    assert check(low__mod=parent, low__child=child) == []


def test_folders_are_in_no_circle_though_their_files_are_in_none(check):
    [error, _] = check(
        low__a="use crate::high::b;", low__b="", high__a="use crate::low::b;", high__b=""
    )
    assert error.splitlines() == [
        "2 folders import each other in a circle:",
        "    crate::high -> crate::low  src/high/a.rs:1",
        "    crate::low -> crate::high  src/low/a.rs:1",
    ]


def test_layers_are_checked_in_one_direction(check):
    assert check(low__a="", high__mod="use crate::low::a::A;") == []
    assert check(low__a="use crate::high;") != []
    [circle, error] = check(low__a="use crate::high;", high__mod="use crate::low::a::A;")
    assert "circle" in circle
    assert error == "crate::low::a must not import crate::high  src/low/a.rs:1"


def test_a_folder_without_a_layer_is_reported(check):
    [error] = check(new="use crate::low::a;", low__a="")
    assert error == "crate::new is in no layer: add new to the table"


def test_a_macro_belongs_to_the_file_that_defines_it(check):
    macro = "#[macro_export] macro_rules! fast { () => { $crate::low::a::f() } }"
    assert check(low__a=macro, low__b="use crate::fast;") == []
    assert check(low__a=macro + "use crate::low::b;", low__b="use crate::fast;") != []
