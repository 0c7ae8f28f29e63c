"""What is sent and when."""

import itertools
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client.calls import MEDIA_TYPES
from service.loadtest.scenario import DISTINCT_BODIES, GREY_LEVELS, Scenario, arrivals_s, bodies
from service.types import HeadInfo, Operation, ScoreRequest
from service.wire import native
from service.wire.limits import Limits

URL = "http://127.0.0.1:8000"
LIMITS = Limits(body_bytes=10**7, rows=10**4, elements=10**6, json_depth=32)
DIGITS = HeadInfo("digits", "1", 64, 10, np.dtype(np.float32), None, "sha256:0", "cpu")


def decoded(scenario: Scenario) -> list[ScoreRequest]:
    requests = [
        native.decode(
            scenario.route,
            body.content,
            media_type=MEDIA_TYPES[scenario.media],
            query=list(body.query.items()),
            limits=LIMITS,
            head_of=lambda _model, _version: DIGITS,
        )
        for body in bodies(scenario)
    ]
    return [request for request in requests if isinstance(request, ScoreRequest)]


@pytest.mark.parametrize("media", ["json", "npz"])
@pytest.mark.parametrize("route", ["predict", "softmax", "loss"])
def test_bodies_are_what_the_service_reads(route: Operation, media: Literal["json", "npz"]) -> None:
    scenario = Scenario(URL, route=route, media=media, rows=3, columns=64)
    requests = decoded(scenario)
    assert len(requests) == DISTINCT_BODIES
    for request in requests:
        assert request.values.shape == (3, 64)
        assert request.dtype == np.float32
        assert (request.labels is not None) == (route == "loss")


def test_features_look_like_pixels() -> None:
    for request in decoded(Scenario(URL, rows=20)):
        assert set(np.unique(request.dense)) <= set(range(GREY_LEVELS))
        assert len(np.unique(request.dense)) == GREY_LEVELS


def test_a_head_is_asked_for_by_name() -> None:
    named = bodies(Scenario(URL, model="digits"))[0]
    assert b'"model":"digits"' in named.content
    assert bodies(Scenario(URL, model="digits", media="npz"))[0].query == {"model": "digits"}


def test_bodies_differ_and_are_the_same_in_every_run() -> None:
    scenario = Scenario(URL)
    first, second = bodies(scenario), bodies(scenario)
    assert first == second
    assert len({body.content for body in first}) == DISTINCT_BODIES


@given(rate=st.floats(1, 1000), seed=st.integers(0, 63))
def test_even_arrivals_keep_their_rate(rate: float, seed: int) -> None:
    dues = list(arrivals_s(rate, 2.0, poisson=False, seed=seed))
    assert abs(len(dues) - 2 * rate) <= 1
    assert all(0 <= due < 2.0 for due in dues)
    assert np.diff(dues) == pytest.approx(1 / rate)


def test_processes_do_not_send_in_step() -> None:
    starts = {next(arrivals_s(100, 1.0, poisson=False, seed=seed)) for seed in range(8)}
    assert len(starts) == 8


def test_poisson_arrivals_keep_their_rate_on_average_but_not_their_distance() -> None:
    dues = np.array(list(arrivals_s(1000, 10.0, poisson=True, seed=1)))
    gaps = np.diff(dues)
    assert len(dues) == pytest.approx(10_000, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as of an exponential distribution
    assert (gaps > 0).all()


def test_arrivals_are_the_same_in_every_run() -> None:
    runs = [list(itertools.islice(arrivals_s(50, 9.0, poisson=True, seed=3), 20)) for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("scenario", "title"),
    [
        (Scenario(URL), "/predict: 1 row of 64 features as JSON, 16 connections, closed loop"),
        (
            Scenario(URL, route="softmax", rows=32, columns=1000, media="npz", connections=1, rate_per_s=250),
            "/softmax: 32 rows of 1000 logits as npz, 1 connection, open loop at 250 requests/s",
        ),
    ],
)
def test_the_title_says_what_is_measured(scenario: Scenario, title: str) -> None:
    assert scenario.title() == title
