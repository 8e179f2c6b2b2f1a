"""The report as Markdown."""

from dataclasses import dataclass

import pytest

from benchmarks.harness.report import Report
from benchmarks.harness.results import Result, Sample, Settings
from benchmarks.harness.tables import CpuTable, group_lines, table


@dataclass(frozen=True)
class FakeRow:
    title: str
    group: str = "echo-protocol"


def result(*costs, failure=None):
    return Result([Sample(cost, 1000, 10, 20) for cost in costs], failure)


SMALL = FakeRow("64 B, 1 connection")
LARGE = FakeRow("100 KiB, 1 connection")


def report(results, **more):
    return Report(
        results,
        Settings(1, 0, 0.3),
        2,
        {"CPU": "fast"},
        ["A note."],
        python="3.14",
        date="2026-01-31",
        **more,
    )


def section(text, heading):
    """Return the lines below a heading."""
    _, _, rest = text.partition(f"\n## {heading}\n")
    assert rest, f"no section {heading}"
    return rest.partition("\n## ")[0].strip().splitlines()


def cells_of(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table():
    assert list(table(["", "a"], [["x", "1"]])) == ["|  | a |", "|---|--:|", "| x | 1 |"]


class TestCpuTable:
    def cells(self, group="echo-protocol", **cells):
        lines = list(CpuTable(group, {FakeRow("row", group): cells}).lines())
        head, _, row = lines[1:4]
        return dict(zip(cells_of(head), cells_of(row), strict=True)), lines

    def test_medians_ranges_and_ratios(self):
        cells, lines = self.cells(
            uvloop=result(2000, 2100, 2050), hybridloop=result(1000, 1050, 1025)
        )
        assert lines[0] == "CPU time per message, µs:\n"
        assert cells["uvloop"] == "2.05 (2.00..2.10)"
        assert cells["hybridloop"] == "1.02 (1.00..1.05) 0.50x"
        assert cells["hybridloop / uvloop"] == "0.50"
        assert cells["hybridloop / best peer"] == "0.50 (uvloop)"

    def test_wide_spread_is_marked(self):
        cells, _ = self.cells(uvloop=result(2000, 2290), asyncio=result(2000, 2400))
        assert "~" not in cells["uvloop"]
        assert cells["asyncio"] == "2.20 (2.00..2.40) ~ 1.02x"

    def test_a_row_that_cannot_be_done_is_a_dash_with_its_reason(self):
        cells, lines = self.cells(
            uvloop=result(2000), rloop=result(failure="NotImplementedError"), hybridloop=result(1)
        )
        assert cells["rloop"] == "\N{EN DASH} [1]"
        assert lines[-1].strip() == "[1] rloop: NotImplementedError"

    def test_micro_benchmarks_are_in_nanoseconds(self):
        cells, lines = self.cells("micro", asyncio=result(1234.4))
        assert lines[0] == "CPU time per operation, ns:\n"
        assert cells["asyncio"] == "1,234 (1,234..1,234)"

    def test_safe_is_compared_with_the_loop_itself(self):
        cells, _ = self.cells(**{"hybridloop": result(2000), "hybridloop (safe)": result(3000)})
        assert cells["hybridloop (safe) / hybridloop"] == "1.50"

    def test_trees_are_in_milliseconds(self):
        cells, lines = self.cells("trees", asyncio=result(250e6))
        assert lines[0] == "CPU time per tree, ms:\n"
        assert cells["asyncio"] == "250 (250..250)"

    def test_columns_are_in_order_and_only_of_what_was_measured(self):
        cells, _ = self.cells(
            **{"limit": result(1), "hybridloop streams": result(2), "hybridloop": result(3)},
            asyncio=result(4),
        )
        assert list(cells)[1:5] == ["asyncio", "hybridloop", "hybridloop streams", "limit"]
        assert cells["hybridloop streams / best peer"] == "0.50 (asyncio)"


def test_connections_per_cpu_second():
    lines = list(group_lines("connect", {FakeRow("TCP", "connect"): {"uvloop": result(50_000)}}))
    assert lines[0].startswith("CPU time per connection")
    start = lines.index("\nConnections per second of the server's CPU time:\n")
    assert cells_of(lines[start + 3]) == ["TCP", "20,000"]


class TestRates:
    def test_rates_have_their_spread(self):
        samples = [Sample(1, per_second=rate, p50_us=3, p99_us=9) for rate in (900, 1000, 1300)]
        lines = list(group_lines("http", {FakeRow("hello", "http"): {"uvloop": Result(samples)}}))
        assert cells_of(lines[-1]) == ["hello", "1,000 (900..1,300); 3 / 9"]

    def test_micro_benchmarks_have_them_where_they_measure_them(self):
        wake = Result([Sample(5, p50_us=20, p99_us=40)])
        rows = {
            FakeRow("wake", "micro"): {"asyncio": wake},
            FakeRow("spawn", "micro"): {"asyncio": Result([Sample(5, per_second=10)])},
            FakeRow("plain", "micro"): {"asyncio": Result([Sample(5)])},
        }
        lines = list(group_lines("micro", rows))
        assert [cells_of(line) for line in lines[-2:]] == [
            ["wake", "20 / 40"],
            ["spawn", "10 (10..10)"],
        ]
        assert "Seen by the clock" in lines[-5]


class TestReport:
    RESULTS = {
        SMALL: {"uvloop": result(100, 100), "hybridloop": result(90, 80)},
        LARGE: {"uvloop": result(100, 100), "blazio": result(50, 50), "hybridloop": result(60, 70)},
    }

    def test_summary_comes_first(self):
        lines = report(self.RESULTS).markdown().splitlines()
        assert lines[0] == "# Benchmarks on Python 3.14"
        assert lines[2].startswith("2026-01-31, by")
        row = next(line for line in lines if line.startswith("| Echo: Protocol |"))
        assert cells_of(row) == [
            "Echo: Protocol",
            "2",
            "0.75 (0.65..0.85)",
            "0.75 (0.65..0.85)",
            "1.30 times blazio (100 KiB, 1 connection)",
            "1 / 0 / 1",
        ]

    def test_losses_are_named_with_the_peer(self):
        text = report(self.RESULTS).markdown()
        assert section(text, "Rows in which hybridloop is slower") == [
            "- Echo: Protocol, 100 KiB, 1 connection: 1.30 (1.20..1.40) times blazio's CPU time: "
            "not explained yet"
        ]

    def test_losses_have_reasons(self):
        text = report(
            self.RESULTS, reasons={"echo-protocol": {LARGE.title: "It is so."}}
        ).markdown()
        (line,) = section(text, "Rows in which hybridloop is slower")
        assert line.endswith("times blazio's CPU time: It is so.")

    def test_charts_stand_on_top(self):
        text = report(self.RESULTS).markdown(["3.14-micro.svg"])
        assert text.index("](3.14-micro.svg)") < text.index("## ")

    def test_losses_that_the_repeats_do_not_agree_on_stand_apart(self):
        results = {SMALL: {"uvloop": result(100, 100), "hybridloop": result(99, 120)}}
        lines = section(report(results).markdown(), "Rows in which hybridloop is slower")
        assert lines[0] == "None."
        assert lines[2].startswith("Slower than the best other loop, but even")
        assert "1.09 (0.99..1.20) times uvloop's" in lines[-1]

    def test_what_the_subject_cannot_do_is_a_loss(self):
        cells = {"uvloop": result(1), "hybridloop": result(failure="it died")}
        lines = section(report({SMALL: cells}).markdown(), "Rows in which hybridloop is slower")
        assert lines == ["- Echo: Protocol, 1 row: \N{EN DASH}, it died"]
        lines = section(
            report({SMALL: cells, LARGE: cells}).markdown(), "Rows in which hybridloop is slower"
        )
        assert lines == ["- Echo: Protocol, 2 rows: \N{EN DASH}, it died"]

    def test_the_worst_loss_comes_first(self):
        results = {
            FakeRow(str(cost)): {"uvloop": result(100, 100), "hybridloop": result(cost, cost)}
            for cost in (110, 130, 120)
        }
        lines = section(report(results).markdown(), "Rows in which hybridloop is slower")
        assert [line.split(":")[1].split(",")[1].strip() for line in lines] == ["130", "120", "110"]

    def test_without_the_subject_there_is_nothing_to_sum_up(self):
        text = report({SMALL: {"uvloop": result(1)}}).markdown()
        assert "loses" not in text
        assert "## Method" in text

    def test_notes_environment_and_further_sections(self):
        text = report(self.RESULTS, sections=[("Memory", "| a |\n")]).markdown()
        assert "- CPU: fast\n" in text
        assert "- A note.\n" in text
        assert section(text, "Memory") == ["| a |"]
        assert "{" not in "".join(section(text, "Method"))


@pytest.mark.parametrize("figure, value", [("per_second", 1000), ("p50_us", 10), ("p99_us", 20)])
def test_medians_of_what_the_client_saw(figure, value):
    assert result(1, 2, 3).median(figure) == value
    assert Result([Sample(1)]).median(figure) is None
