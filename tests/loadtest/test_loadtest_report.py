"""Figures, words and tables of a measurement."""

import io
import json
from collections import Counter
from typing import Any

import pytest
from rich.console import Console

from service.loadtest.fleet import Measurement
from service.loadtest.report import Report
from service.loadtest.scenario import Scenario
from service.loadtest.tally import Tally


def report_of(outcomes: dict[str, int], *, interrupted: bool = False, **fields: Any) -> Report:
    """A report of two seconds, in which each 2xx took 10 ms unless `latencies_s` are given."""
    latencies_s = fields.pop("latencies_s", None)
    answered = sum(count for name, count in outcomes.items() if name.startswith("2"))
    fields = {
        "answered": Counter({0: answered}),
        "measured_s": 2.0,
        "watched_s": 4.0,
        "busy_s": 1.0,
        **fields,
    }
    tally = Tally(outcomes=Counter(outcomes), **fields)
    for latency_s in [0.01] * answered if latencies_s is None else latencies_s:
        tally.latencies.add(latency_s)
    scenario = Scenario("http://127.0.0.1:8000", rows=4, processes=2)
    return Report(Measurement(scenario, tally, interrupted=interrupted))


def printed(report: Report) -> str:
    written = io.StringIO()
    Console(width=100, file=written).print(report.tables())
    return written.getvalue()


def test_rates_are_answers_and_rows_a_second() -> None:
    report = report_of({"200": 500})
    assert report.requests_per_s == 250
    assert report.document()["rows_per_s"] == 1000


def test_a_good_run_passes_without_remarks() -> None:
    report = report_of({"200": 500})
    assert report.passed
    assert report.remarks() == []


def test_errors_fail_and_are_counted_in_words() -> None:
    report = report_of({"200": 1500, "503 not_ready": 2, "ConnectError": 1})
    assert not report.passed
    assert report.remarks() == ["3 of 1,503 requests were not answered 2xx"]
    assert report.requests_per_s == 750


def test_nothing_at_all_fails() -> None:
    report = report_of({}, measured_s=0.0, watched_s=0.0)
    assert not report.passed
    assert report.remarks() == ["no request was answered in the measured time"]
    assert report.requests_per_s == 0


def test_requests_that_were_never_sent_fail_and_say_whose_limit_it_was() -> None:
    report = report_of({"200": 50}, unsent=25)
    assert not report.passed
    assert report.requests == 75
    (remark,) = report.remarks()
    assert "25 of 75 requests were due but not sent" in remark
    assert "all 16 connections were waiting" in remark


@pytest.mark.parametrize(("busy_s", "said"), [(3.3, False), (3.88, True)])
def test_a_busy_generator_owns_up(busy_s: float, *, said: bool) -> None:
    report = report_of({"200": 50}, busy_s=busy_s)
    words = "the load generator was busy 97% of the time: these figures are its limit, not the server's"
    assert any(words in remark for remark in report.remarks()) is said
    assert report.passed


@pytest.mark.parametrize(("late", "said"), [(1, False), (50, True)])
def test_a_generator_that_sends_late_owns_up(late: int, *, said: bool) -> None:
    report = report_of({"200": 500}, late=late)
    assert any("sent 10% of the requests late" in remark for remark in report.remarks()) is said


def test_an_interrupted_run_says_how_long_it_was() -> None:
    report = report_of({"200": 500}, interrupted=True)
    assert report.remarks() == ["interrupted after 2.0 s of measurement"]


def test_latencies_are_percentiles_in_milliseconds() -> None:
    report = report_of({"200": 1000}, latencies_s=[n / 1000 for n in range(1, 1001)])
    expected = {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p99.9": 999, "max": 1000}
    assert list(report.latencies_ms) == list(expected)
    assert report.latencies_ms == pytest.approx(expected, rel=0.0051)


def test_the_document_is_plain_json_also_of_nothing() -> None:
    assert json.loads(json.dumps(report_of({}).document(), allow_nan=False))["latency_ms"]["p50"] is None
    document = json.loads(
        json.dumps(report_of({"200": 10}, failed=Counter({2: 3})).document(), allow_nan=False)
    )
    assert document["timeline"] == {"step_s": 0.25, "answered": [10, 0, 0], "failed": [0, 0, 3]}
    assert document["scenario"]["rows"] == 4
    assert document["outcomes"] == {"200": 10}
    assert document["generator"]["busy_share"] == 0.25


def test_the_tables_show_every_figure() -> None:
    text = printed(report_of({"200": 1500, "422 features_shape": 2}, unsent=7))
    assert "4 rows of 64 features as JSON, 16 connections, closed loop" in text
    for figure in ("1,509", "750.0", "3,000.0", "25%", "422 features_shape", "10.00", "not sent", "p99.9"):
        assert figure in text


def test_the_tables_of_nothing_have_dashes() -> None:
    assert "│   - │" in printed(report_of({}))


def test_large_latencies_have_no_false_digits() -> None:
    text = printed(report_of({"200": 1}, latencies_s=[0.1234]))
    assert "123 " in text
    assert "123.4" not in text
