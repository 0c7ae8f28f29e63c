"""Histogram and tally: percentiles within the stated resolution, and sums that add up."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loadtest.tally import HIGHEST_S, LOWEST_S, RESOLUTION, Histogram, Tally, is_success

latencies_s = st.lists(st.floats(LOWEST_S, HIGHEST_S / 2), min_size=1, max_size=60)


def histogram_of(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(values=latencies_s, percent=st.floats(0, 100))
def test_a_percentile_is_the_nearest_rank_within_the_resolution(values: list[float], percent: float) -> None:
    rank = max(1, math.ceil(percent / 100 * len(values)))
    exact = sorted(values)[rank - 1]
    assert histogram_of(values).percentile_s(percent) == pytest.approx(exact, rel=RESOLUTION * 1.01)


@given(values=latencies_s)
def test_the_largest_is_exact(values: list[float]) -> None:
    assert histogram_of(values).percentile_s(100) == max(values)


@given(values=latencies_s)
def test_percentiles_never_fall_and_never_pass_the_largest(values: list[float]) -> None:
    histogram = histogram_of(values)
    found = [histogram.percentile_s(percent) for percent in (0, 50, 90, 95, 99, 99.9, 100)]
    assert found == sorted(found)
    assert found[-1] == max(values)


@given(left=latencies_s, right=latencies_s)
def test_histograms_add_up(left: list[float], right: list[float]) -> None:
    both = histogram_of(left)
    both += histogram_of(right)
    whole = histogram_of(left + right)
    assert both.counts == whole.counts
    assert both.largest_s == whole.largest_s
    assert len(both) == len(left) + len(right)


def test_percentiles_of_nothing_are_no_number() -> None:
    assert math.isnan(Histogram().percentile_s(50))
    assert math.isnan(Histogram().percentile_s(100))


@pytest.mark.parametrize("value", [0.0, 1e-9, HIGHEST_S * 10])
def test_what_lies_outside_the_buckets_is_counted_at_their_ends(value: float) -> None:
    histogram = histogram_of([value, 0.5])
    assert len(histogram) == 2
    assert histogram.percentile_s(100) == max(value, 0.5)


def test_tallies_add_up() -> None:
    total = Tally()
    for moment in range(3):
        part = Tally(
            outcomes=Counter({"200": 2, "503 not_ready": 1}),
            answered=Counter({moment: 2}),
            failed=Counter({moment: 1}),
            unsent=1,
            late=2,
            busy_s=0.5,
            watched_s=1.0,
            measured_s=moment / 4,
        )
        part.latencies.add(0.01)
        total += part
    assert total.outcomes == {"200": 6, "503 not_ready": 3}
    assert total.answered == {0: 2, 1: 2, 2: 2}
    assert total.failed == {0: 1, 1: 1, 2: 1}
    assert (total.unsent, total.late) == (3, 6)
    assert (total.busy_s, total.watched_s) == (1.5, 3.0)
    assert total.measured_s == 0.5
    assert len(total.latencies) == 3


def test_errors_are_the_outcomes_other_than_2xx_the_most_frequent_first() -> None:
    tally = Tally(outcomes=Counter({"200": 9, "204": 1, "ConnectError": 1, "422 labels_shape": 4, "302": 2}))
    assert list(tally.errors().items()) == [("422 labels_shape", 4), ("302", 2), ("ConnectError", 1)]


@pytest.mark.parametrize(
    ("outcome", "success"),
    [("200", True), ("204", True), ("302", False), ("422 rank", False), ("ReadError", False)],
)
def test_success_is_2xx(outcome: str, *, success: bool) -> None:
    assert is_success(outcome) is success
