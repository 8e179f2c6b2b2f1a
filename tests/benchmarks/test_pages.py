"""Stored runs, their pages and charts, the overview, and the reasons of slower rows."""

import json
from xml.etree import ElementTree

import pytest

from benchmarks.harness import charts, pages, reasons, store
from benchmarks.harness.report import Report
from benchmarks.harness.results import Result, Sample, Settings, StoredRow
from benchmarks.harness.rows import GROUPS, make_rows
from benchmarks.loops import LOOPS, SAFE
from benchmarks.micro import CASES
from benchmarks.trees import VARIANTS
from benchmarks.unexplained import lines as unexplained_lines

SVG = "{http://www.w3.org/2000/svg}"


def result(*costs):
    return Result([Sample(cost, 1000.04, 10, 20) for cost in costs])


HELLO = StoredRow("http", "uvicorn, 50 connections")
CHAIN = StoredRow("micro", "call_soon chain")
RESULTS = {
    HELLO: {"asyncio": result(20, 20), "uvloop": result(10, 10), "hybridloop": result(12, 13)},
    CHAIN: {
        "asyncio": result(100, 100),
        "rloop": Result(failure="it died & <left>"),
        "hybridloop": result(50, 50),
        SAFE: result(60, 60),
    },
}


def run(results=RESULTS, python="3.14"):
    return Report(
        results,
        Settings(1, 0, 0.2),
        2,
        {"CPU": "fast"},
        ["A note."],
        [("Import", "| a |")],
        python=python,
        date="2026-01-31",
    )


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "3.14.json"
    store.save(run(), path)
    return path


class TestStore:
    def test_what_is_loaded_is_what_was_saved(self, stored):
        assert store.load(stored) == run(
            {
                HELLO: {loop: self.rounded(cell) for loop, cell in RESULTS[HELLO].items()},
                CHAIN: {loop: self.rounded(cell) for loop, cell in RESULTS[CHAIN].items()},
            }
        )

    @staticmethod
    def rounded(cell):
        return Result([Sample(s.cpu_ns, 1000.0, 10, 20) for s in cell.samples], cell.failure)

    def test_a_row_is_a_line(self, stored):
        lines = [line.rstrip(",") for line in stored.read_text().splitlines() if "group" in line]
        assert [json.loads(line)["title"] for line in lines] == [HELLO.title, CHAIN.title]

    def test_figures_that_a_row_has_not_are_left_out(self, tmp_path):
        cells = {"asyncio": Result([Sample(1.26), Sample(2)]), "uvloop": Result([])}
        store.save(run({CHAIN: cells}), tmp_path / "run.json")
        (row,) = json.loads((tmp_path / "run.json").read_text())["rows"]
        assert row["loops"] == {"asyncio": {"cpu_ns": [1.3, 2]}, "uvloop": {}}
        loaded = store.load(tmp_path / "run.json").results[CHAIN]
        assert loaded["asyncio"].samples == [Sample(1.3), Sample(2)]
        assert loaded["uvloop"].samples == []

    def test_versions_are_in_order(self, monkeypatch, tmp_path):
        monkeypatch.setattr(store, "FOLDER", tmp_path)
        for name in ("3.9.json", "3.10.json", "3.10.md"):
            (tmp_path / name).touch()
        assert [path.name for path in store.stored()] == ["3.9.json", "3.10.json"]


class TestCharts:
    def test_they_are_pictures_without_scripts(self):
        found = charts.of_run(RESULTS)
        assert set(found) == {"servers", "micro"}
        for text in found.values():
            picture = ElementTree.fromstring(text)
            assert picture.tag == f"{SVG}svg"
            assert not [*picture.iter(f"{SVG}script")]

    def test_they_show_each_row_and_loop(self):
        text = charts.of_run(RESULTS)["micro"]
        texts = {node.text for node in ElementTree.fromstring(text).iter(f"{SVG}text")}
        assert {"call_soon chain", "asyncio", "hybridloop", SAFE} <= texts
        assert "rloop" not in texts

    def test_the_same_figures_make_the_same_picture(self):
        assert charts.of_run(RESULTS) == charts.of_run(RESULTS)

    def test_values_are_relative_to_asyncio(self):
        assert charts.series({HELLO: RESULTS[HELLO]}) == {
            "asyncio": [1],
            "uvloop": [0.5],
            "hybridloop": [0.625],
        }

    def test_without_asyncio_there_is_nothing_to_compare_with(self):
        assert charts.of_run({CHAIN: {"uvloop": result(1), "hybridloop": result(1)}}) == {}

    def test_each_loop_has_a_colour_of_its_own(self):
        assert len(set(charts.COLOURS)) == len(charts.COLOURS) >= len([*LOOPS, SAFE])


class TestPages:
    def test_a_page_with_its_charts(self, stored):
        stored.with_name("3.14-gone.svg").touch()
        pages.render(stored)
        page = stored.with_suffix(".md").read_text()
        assert page.startswith("# Benchmarks on Python 3.14\n")
        assert "](3.14-servers.svg)" in page and "](3.14-micro.svg)" in page
        pictures = sorted(path.name for path in stored.parent.glob("*.svg"))
        assert pictures == ["3.14-micro.svg", "3.14-servers.svg"]

    def test_the_overview_has_a_line_for_each_run(self):
        lines = list(pages.overview([run(python="3.13"), run(python="3.14")]))
        cells = [cell.strip() for cell in lines[3].strip("|").split("|")]
        assert cells == [
            "[3.14](benchmarks/3.14.md)",
            "2026-01-31",
            "2",
            "0.56",
            "1.25",
            "0.88",
            "1 / 0 / 1",
            "1",
        ]
        assert lines[4:7] == ["", "- 3.13: A note.", "- 3.14: A note."]
        assert "benchmarks/3.14-servers.svg" in "".join(lines[4:])

    def test_the_overview_links_what_other_projects_measure(self):
        assert "others.md" not in "".join(pages.overview([]))
        first, *_ = pages.overview([], others=True)
        assert "](benchmarks/others.md)" in first

    def test_only_what_is_between_the_marks_is_written(self):
        page = f"top\n{pages.BEGIN}\nold\n{pages.END}\nbelow\n"
        assert pages.replaced(page, ["new"]) == (
            f"top\n{pages.BEGIN}\n\nnew\n\n{pages.END}\nbelow\n"
        )
        with pytest.raises(ValueError, match="no lines"):
            pages.replaced("top\n", ["new"])

    def test_what_is_committed_is_what_the_stored_runs_say(self):
        page = store.OVERVIEW.read_text()
        reports = [pages.with_reasons(store.load(path)) for path in store.stored()]
        assert pages.replaced(page, pages.current_overview(reports)) == page
        for path, report in zip(store.stored(), reports, strict=True):
            images = [f"{path.stem}-{kind}.svg" for kind in charts.of_run(report.results)]
            assert path.with_suffix(".md").read_text() == report.markdown(images)
            for image in images:
                ElementTree.parse(path.with_name(image))


class TestReasons:
    def test_of_a_row_of_its_group_or_none(self):
        known = {"micro": {CHAIN.title: "It is a chain."}, "http": {"*": "It is HTTP."}}
        assert reasons.reason_for(CHAIN, known) == "It is a chain."
        assert reasons.reason_for(HELLO, known) == "It is HTTP."
        assert reasons.reason_for(StoredRow("micro", "another"), known) == reasons.NOT_EXPLAINED

    def test_rows_without_one_are_named(self, stored):
        (line,) = unexplained_lines([stored], {})
        assert line.startswith("3.14: [http] 'uvicorn, 50 connections': HTTP: hello")
        assert "1.25 (1.20..1.30) times uvloop's" in line
        assert unexplained_lines([stored], {"http": {"*": "It is HTTP."}}) == []

    def test_the_written_ones_are_of_rows_that_exist(self):
        for group, known in reasons.read().items():
            assert group in GROUPS
            rows, _ = make_rows([group], None, None, CASES, VARIANTS)
            titles = {row.title for row in rows}
            if titles:
                assert set(known) <= {reasons.ANY, *titles}
            assert all(len(text) > 10 for text in known.values())
