"""The plot: it is drawn for every kind of measurement, and says what it shows."""

from collections import Counter
from pathlib import Path

import pytest

from service.loadtest.fleet import Measurement
from service.loadtest.plot import MOST_POINTS, draw
from service.loadtest.report import Report
from service.loadtest.scenario import Scenario
from service.loadtest.tally import STEP_S, Tally


def report_of(*, steps: int, failed: int = 0, busy_s: float = 0.0) -> Report:
    answered = Counter(dict.fromkeys(range(steps), 10))
    tally = Tally(
        outcomes=Counter({"200": steps * 10, "503 not_ready": failed}),
        answered=answered,
        failed=Counter({1: failed}) if failed else Counter(),
        measured_s=steps * STEP_S,
        watched_s=1.0,
        busy_s=busy_s,
    )
    for number in range(steps * 10):
        tally.latencies.add(0.001 * (1 + number % 7))
    return Report(Measurement(Scenario("http://127.0.0.1:8000"), tally))


def svg_of(report: Report, folder: Path) -> str:
    path = folder / "load.svg"
    draw(report, path)
    return path.read_text(encoding="utf-8")


def test_a_png_is_a_png(tmp_path: Path) -> None:
    draw(report_of(steps=8), tmp_path / "load.png")
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")


def test_the_axes_are_labelled_with_units(tmp_path: Path) -> None:
    svg = svg_of(report_of(steps=8), tmp_path)
    for label in ("latency (ms)", "percentile of the requests", "time since the warm-up (s)", "requests/s"):
        assert f"<!-- {label} -->" in svg
    for tick in ("50 %", "99.9 %"):
        assert f"<!-- {tick} -->" in svg


def test_title_and_caption_say_what_was_measured(tmp_path: Path) -> None:
    svg = svg_of(report_of(steps=8, busy_s=0.95), tmp_path)
    assert "1 row of 64 features as JSON, 16 connections, closed loop" in svg
    assert "40 requests/s" in svg
    assert "the load generator was busy 95% of the time" in svg


def test_errors_are_drawn_only_where_there_are_some(tmp_path: Path) -> None:
    assert "<!-- errors -->" in svg_of(report_of(steps=8, failed=3), tmp_path)
    assert "<!-- errors -->" not in svg_of(report_of(steps=8), tmp_path)


@pytest.mark.parametrize("steps", [0, 1, MOST_POINTS, MOST_POINTS * 7 + 3])
def test_any_length_can_be_drawn(steps: int, tmp_path: Path) -> None:
    svg = svg_of(report_of(steps=steps), tmp_path)
    assert "<!-- Answers over time -->" in svg
