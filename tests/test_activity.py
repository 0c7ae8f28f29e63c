"""What came in between samples: rates, percentiles in buckets, gaps, and counters that workers took along."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.activity import (
    INTERVAL_S,
    KEPT_S,
    MOST_MODELS,
    QUALITY_STEP_S,
    SUMMARY_S,
    Activity,
    percentiles,
)
from service.instruments import BUCKETS_S, DURATION, MODEL_INFO, QUEUE_ROWS, WORKERS
from service.metrics import Metrics, Values

START_S = 1_767_225_600
SCORING = {"/predict", "/softmax"}
QUIET = {"/activity", "/metrics"}


def activity_of(*counts: Values, judged: list[Any] | None = None) -> Activity:
    activity = Activity(SCORING, QUIET)
    for at, values in enumerate(counts):
        activity.add(START_S + at * INTERVAL_S, values, judged[at] if judged else {})
    return activity


def listed(told: Any) -> Any:
    """The answer as JSON has it: lists, and None where numbers are not."""
    if isinstance(told, np.ndarray):
        return [None if value != value else value for value in told.tolist()]  # noqa: PLR0124 - NaN
    if isinstance(told, np.generic):
        return listed(np.array([told]))[0]
    if isinstance(told, dict):
        return {key: listed(value) for key, value in told.items()}
    return [listed(value) for value in told] if isinstance(told, list) else told


def one_request(
    metrics: Metrics, route: str = "/predict", duration_s: float = 0.0003, status: int = 200
) -> None:
    metrics.request_started()
    metrics.request_finished(route, "POST", status, duration_s)


def test_percentiles_lie_on_a_line_between_the_bounds_of_their_bucket() -> None:
    bounds = (1.0, 2.0, 4.0)
    counts = np.array([[0, 10, 0, 0], [5, 0, 5, 0], [0, 0, 0, 7], [0, 0, 0, 0]], np.float64)
    found = percentiles(counts, bounds, (0.5, 0.9, 1.0))
    assert found[:, 0].tolist() == [1.5, 1.9, 2.0]
    assert found[:, 1].tolist() == pytest.approx([1.0, 2 + 2 * 0.8, 4.0])
    assert found[:, 2].tolist() == [4.0, 4.0, 4.0], "above all bounds there is no line to lie on"
    assert np.isnan(found[:, 3]).all()


@given(st.lists(st.floats(0, 9.9), min_size=1, max_size=50), st.floats(0.01, 1))
def test_percentiles_lie_in_the_bucket_of_the_value_itself(values: list[float], quantile: float) -> None:
    counts = np.bincount(np.searchsorted(BUCKETS_S, values), minlength=len(BUCKETS_S) + 1)
    (found,) = percentiles(counts[None].astype(np.float64), BUCKETS_S, (quantile,))[:, 0]
    rank = max(1, int(np.ceil(quantile * len(values) - 1e-9)))
    exact = sorted(values)[rank - 1]
    bucket = int(np.searchsorted(BUCKETS_S, exact))
    assert ([0.0, *BUCKETS_S][bucket] - 1e-12) <= found <= BUCKETS_S[bucket] + 1e-12


def test_rates_are_what_came_in_between() -> None:
    metrics = Metrics()
    counts = [metrics.values]
    for requests in (4, 0, 2):
        for _ in range(requests):
            one_request(metrics)
            metrics.scored(("digits", "1"), 3, (1e-5, 2e-5, 1e-3, 1e-5), 0.0)
            metrics.batch("digits", "1", 6)
        counts.append(metrics.values)
    told = listed(activity_of(*counts).describe())
    assert told["times_s"] == [START_S + 2, START_S + 4, START_S + 6]
    assert told["requests_per_s"] == [2, 0, 1]
    assert told["rows_per_s"] == [6, 0, 3]
    assert told["batch_rows"] == [6, None, 6]
    assert told["duration_s"]["p50"][1] is None, "where nothing happened there is no percentile"
    assert told["duration_s"]["p50"][0] == pytest.approx(0.000375)
    assert 0.0005 < told["stages_s"]["infer"]["p90"][2] < 0.001
    assert told["models"] == [{"model": "digits", "version": "1", "rows_per_s": [6, 0, 3]}]
    assert told["statuses_per_s"] == {"200": [2, 0, 1]}
    assert dict(zip(told["batches"]["up_to"], told["batches"]["count"], strict=False))[8] == 6


def test_whoever_asks_how_it_does_is_no_load() -> None:
    metrics = Metrics()
    before = metrics.values
    one_request(metrics)
    for route in ("/activity", "/metrics", "/docs", "/"):
        one_request(metrics, route, 0.9)
    for route, code in (
        ("/predict", "missing_field"),
        ("/activity", "option_type"),
        ("unmatched", "unknown_route"),
    ):
        metrics.error(route, code)
    told = listed(activity_of(before, metrics.values).describe())
    assert told["requests_per_s"] == [0.5]
    assert told["duration_s"]["p99"][0] < 0.001
    assert told["errors_per_s"] == {"missing_field": [0.5], "unknown_route": [0.5]}


def test_gauges_are_those_at_the_end_of_an_interval() -> None:
    counts: list[Values] = [{WORKERS.name: {(): n}, QUEUE_ROWS.name: {(): 10 * n}} for n in (1, 2, 3)]
    told = listed(activity_of(*counts).describe())
    assert (told["workers"], told["queue_rows"]) == ([2, 3], [20, 30])
    assert told["memory_bytes"] == told["inflight_requests"] == [0, 0]


def test_rates_are_never_negative() -> None:
    def counted(requests: float) -> Values:
        return {DURATION.name: {("/predict", "3"): requests}}

    told = listed(activity_of(*map(counted, (10, 20, 4, 8))).describe())
    assert told["requests_per_s"] == [5, 0, 2], (
        "what a worker took along is neither missing later nor counted twice"
    )


def test_a_missing_sample_makes_a_longer_interval() -> None:
    activity = Activity(SCORING, QUIET)
    for at_s, requests in ((0, 0), (2, 4), (8, 16)):
        activity.add(START_S + at_s, {DURATION.name: {("/predict", "3"): requests}}, {})
    told = listed(activity.describe())
    assert told["times_s"] == [START_S + 2, START_S + 8]
    assert told["requests_per_s"] == [2, 2]


def test_before_the_second_sample_there_is_nothing_to_tell() -> None:
    for activity in (Activity((), ()), activity_of(Metrics().values)):
        told = listed(activity.describe())
        assert told["times_s"] == told["requests_per_s"] == told["duration_s"]["p50"] == told["workers"] == []
        assert told["stages_s"]["queue"] == {"p50": [], "p90": [], "p99": []}
        assert (told["models"], told["last_minute"]) == ([], None)
        assert told["quality"]["models"] == []


def test_the_intervals_after_a_time_are_those_of_the_whole() -> None:
    metrics = Metrics()
    counts, judged = [], []
    for at in range(20):
        one_request(metrics)
        metrics.scored(("digits", "1"), at, (0, 0, 0, 0), 0.0)
        counts.append(metrics.values)
        judged.append({("digits", "1"): (float(at), 0.5 * at, at // 2)})
    activity = activity_of(*counts, judged=judged)
    whole, part = (listed(activity.describe(since)) for since in (0, START_S + 30))
    assert part["times_s"] == whole["times_s"][-4:] == [START_S + at for at in (32, 34, 36, 38)]
    for name in ("requests_per_s", "rows_per_s", "workers"):
        assert part[name] == whole[name][-4:]
    assert part["duration_s"]["p90"] == whole["duration_s"]["p90"][-4:]
    assert part["last_minute"] == whole["last_minute"]
    assert whole["quality"]["times_s"] == [START_S + QUALITY_STEP_S * k for k in (1, 2, 3)]
    assert part["quality"]["times_s"] == []
    assert listed(activity.describe(START_S + 1000))["times_s"] == []


def test_quality_is_told_in_wider_steps_and_null_where_no_labels_came() -> None:
    judged = [{("digits", "1"): (min(at, 5) * 2.0, min(at, 5) * 1.0, min(at, 5) * 1.0)} for at in range(11)]
    told = listed(activity_of(*[Metrics().values] * 11, judged=judged).describe())["quality"]
    assert told["times_s"] == [START_S + 10, START_S + 20]
    assert told["models"] == [
        {"model": "digits", "version": "1", "rows": [10, 0], "log_loss": [0.5, None], "accuracy": [0.5, None]}
    ]


def test_a_version_that_came_later_began_with_nothing() -> None:
    first, second = Metrics(), Metrics()
    for metrics in (first, second):
        metrics.scored(("digits", "1"), 5, (0, 0, 0, 0), 0.0)
    second.scored(("digits", "2"), 8, (0, 0, 0, 0), 0.0)
    told = listed(activity_of(first.values, first.values, second.values).describe())
    assert told["models"] == [{"model": "digits", "version": "2", "rows_per_s": [0, 4]}]


def test_of_many_heads_the_busiest_have_a_series() -> None:
    metrics = Metrics()
    before = metrics.values
    for rows in range(1, MOST_MODELS + 10):
        metrics.scored((f"head-{rows}", "1"), rows, (0, 0, 0, 0), 0.0)
    told = listed(activity_of(before, metrics.values).describe())
    assert len(told["models"]) == MOST_MODELS
    assert told["models"][0]["model"] == f"head-{MOST_MODELS + 9}"
    assert told["rows_per_s"] == [sum(range(1, MOST_MODELS + 10)) / 2], "the sum has them all"


def test_samples_are_kept_for_so_long_and_no_longer() -> None:
    activity = activity_of(*[Metrics().values] * (KEPT_S // INTERVAL_S + 50))
    times_s = activity.describe()["times_s"]
    assert len(times_s) == KEPT_S // INTERVAL_S
    assert times_s[-1] - times_s[0] == KEPT_S - INTERVAL_S


def test_the_last_minute_is_one_number_each() -> None:
    metrics = Metrics()
    counts = []
    for at in range(2 + SUMMARY_S // INTERVAL_S):
        one_request(metrics, duration_s=0.3 if at == 0 else 0.0003)
        if at == 5:
            metrics.error("/predict", "missing_field")
        counts.append(metrics.values)
    told = listed(activity_of(*counts).describe()["last_minute"])
    assert told["seconds"] == SUMMARY_S
    assert told["requests_per_s"] == 0.5
    assert told["errors"] == {"missing_field": 1}
    assert told["statuses"] == {"200": 30}
    assert told["duration_s"]["p99"] < 0.001, "the slow request was before"
    assert told["batch_rows"] is None


def test_a_clock_that_is_set_back_begins_anew_and_one_put_right_does_not() -> None:
    activity = activity_of(*[Metrics().values] * 5)
    activity.add(START_S + 8, Metrics().values, {})
    assert len(activity.describe()["times_s"]) == 4
    activity.add(START_S - 3600, Metrics().values, {})
    activity.add(START_S - 3598, Metrics().values, {})
    assert activity.describe()["times_s"].tolist() == [START_S - 3598]


def test_providers_are_those_of_what_is_served_now() -> None:
    values: Values = {MODEL_INFO.name: {("digits", "1", "abc", "cpu"): 1, ("digits", "2", "abd", "cpu"): 1}}
    assert activity_of(values).describe()["providers"] == ["cpu"]
