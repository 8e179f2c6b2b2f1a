"""Ratios, verdicts and summaries."""

from dataclasses import dataclass

import pytest

from benchmarks.harness.compare import against_best, best, peers, ratio, summarise
from benchmarks.harness.results import Result, Sample


def same(cost):
    """A result of two repeats that cost the same."""
    return result(cost, cost)


def result(*costs):
    return Result([Sample(cost) for cost in costs])


@dataclass(frozen=True)
class FakeRow:
    title: str
    group: str = "echo-protocol"


class TestRatio:
    def test_is_the_median_of_the_ratios_and_not_the_ratio_of_the_medians(self):
        # Repeat by repeat 0.5, 1.25 and 0.8; of the medians it would be 2 / 2.
        found = ratio(result(1, 5, 2), result(2, 4, 2.5))
        assert (found.median, found.low, found.high) == (0.8, 0.5, 1.25)

    def test_drift_that_meets_both_does_not_show(self):
        found = ratio(result(9, 18, 27), result(10, 20, 30))
        assert found.verdict == "ahead"
        assert found.median == pytest.approx(0.9)
        assert found.high == pytest.approx(found.low)

    @pytest.mark.parametrize(
        "own, base",
        [
            (None, result(1)),
            (result(1), None),
            (result(), result(1)),
            (result(1), Result([Sample(1)], failure="it died")),
        ],
    )
    def test_of_nothing_is_none(self, own, base):
        assert ratio(own, base) is None

    @pytest.mark.parametrize(
        "costs, verdict",
        [
            ((80, 90, 99), "ahead"),
            ((120, 110, 101), "behind"),
            ((80, 90, 101), "even"),
            ((120, 110, 99), "even"),
            ((99.5, 99.5, 99.5), "even"),
            ((100, 100, 100), "even"),
        ],
    )
    def test_a_verdict_needs_all_repeats_and_one_percent(self, costs, verdict):
        assert ratio(result(*costs), result(100, 100, 100)).verdict == verdict

    def test_one_repeat_is_none(self):
        assert ratio(result(200), result(100)).verdict == "even"


class TestBest:
    def test_is_the_cheapest_that_has_samples(self):
        cells = {
            "asyncio": result(3),
            "uvloop": result(2),
            "rloop": Result([Sample(1)], failure="it died"),
            "floor": result(0.5),
        }
        assert best(cells, peers()) == "uvloop"
        assert best({}, peers()) is None

    def test_subject_references_and_variants_are_no_peers(self):
        assert not {"hybridloop", "hybridloop streams", "hybridloop (safe)", "floor"} & set(peers())
        assert set(peers()) - set(peers(epoll_only=True)) == {"blazio", "rsloop"}

    def test_against_best(self):
        cells = {"asyncio": result(4), "uvloop": result(2), "hybridloop": result(1)}
        peer, factor = against_best(cells, "hybridloop", peers())
        assert (peer, factor.median) == ("uvloop", 0.5)
        assert against_best({"uvloop": result(2)}, "hybridloop", peers()) is None
        assert against_best({"hybridloop": result(2)}, "hybridloop", peers()) is None


def test_summary_of_a_group():
    rows = {
        FakeRow("small"): {
            "uvloop": result(10, 10),
            "blazio": result(5, 5),
            "hybridloop": result(8, 8),
        },
        FakeRow("large"): {
            "uvloop": result(10, 10),
            "blazio": result(12, 12),
            "hybridloop": result(9, 9),
        },
        FakeRow("lost"): {"uvloop": result(10), "hybridloop": Result(failure="it died")},
    }
    found = summarise(rows, "hybridloop")
    assert found.rows == 3
    assert found.baseline == pytest.approx((0.85, 0.8, 0.9))
    assert found.epoll == pytest.approx((0.85, 0.8, 0.9))
    title, peer, factor = found.worst
    assert (title, peer, factor.median) == ("small", "blazio", 1.6)
    assert found.verdicts == {"ahead": 1, "even": 0, "behind": 1}
    assert summarise(rows, "hybridloop streams") is None


def test_spread():
    assert result(10, 9, 11).spread() == pytest.approx(0.2)
    assert result(10).spread() == 0
    assert result(10, 9, 12).range() == (9, 12)
