"""The core: every output of every operation, what runs where, and what is dropped."""

import asyncio
import json
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pytest
from conftest import MODELS

from service.errors import DeadlineExceeded, Invalid, NotReady, QueueFull
from service.finishing import finish
from service.heads.graphs import Linear, build_linear
from service.heads.repository import Repository
from service.numeric.softmax import softmax
from service.outcomes import Deliver, Gone, awaited
from service.scorer import INLINE_COST, BatchLimits, Scorer
from service.types import FloatArray, HeadInfo, ScoreRequest, ScoreResult

pytestmark = pytest.mark.anyio

T = TypeVar("T")

LOGITS = np.array([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]])
NAMES = ("cat", "dog", "eel")


@pytest.fixture(scope="module")
def repository() -> Iterator[Repository]:
    repository = Repository(MODELS, provider="cpu", threads=1)
    repository.load()
    yield repository
    repository.close()


@pytest.fixture
def scorer(repository: Repository) -> Iterator[Scorer]:
    scorer = Scorer(repository)
    yield scorer
    scorer.close()


async def answered(scorer: Scorer, request: ScoreRequest) -> dict[str, Any]:
    return dict((await scorer.score(request)).outputs)


def asked(*outputs: str, values: FloatArray = LOGITS, **options: Any) -> ScoreRequest:
    fields = {"operation": "softmax", "axis": values.ndim - 1, "dtype": values.dtype, **options}
    return ScoreRequest(values=values, outputs=outputs, **fields)


def digits(repository: Repository) -> HeadInfo:
    return repository.info(None, None)


def predicting(repository: Repository, features: FloatArray, *outputs: str, **options: Any) -> ScoreRequest:
    head = digits(repository)
    given = {"dtype": head.dtype, "class_names": head.class_names, **options}
    return asked(*outputs, operation="predict", values=features, head=head, **given)


FEATURES = np.arange(3 * 64, dtype=np.float32).reshape(3, 64) % 17


async def test_features_become_logits_and_logits_probabilities(
    scorer: Scorer, repository: Repository
) -> None:
    request = predicting(repository, FEATURES, "logits", "probabilities", "predicted_names")
    result = await scorer.score(request)
    logits = repository.head(digits(repository)).run(FEATURES)
    np.testing.assert_array_equal(result.outputs["logits"], logits)
    np.testing.assert_array_equal(result.outputs["probabilities"], softmax(logits))
    assert result.head == digits(repository)
    names = digits(repository).class_names or ()
    assert result.outputs["predicted_names"] == [names[i] for i in logits.argmax(-1)]


async def test_features_of_any_rank(scorer: Scorer, repository: Repository) -> None:
    flat = await answered(scorer, predicting(repository, FEATURES, "probabilities"))
    deep = await answered(
        scorer, predicting(repository, FEATURES.reshape(1, 3, 64), "probabilities", "classes")
    )
    single = await answered(scorer, predicting(repository, FEATURES[0], "probabilities"))
    empty = await answered(scorer, predicting(repository, FEATURES[:0], "logits", "classes", "contributions"))
    assert np.shape(deep["probabilities"]) == (1, 3, 10)
    assert np.shape(deep["classes"]) == (1, 3)
    assert np.shape(single["probabilities"]) == (10,)
    np.testing.assert_allclose(single["probabilities"], np.asarray(flat["probabilities"])[0], rtol=1e-5)
    assert np.shape(empty["logits"]) == (0, 10)
    assert np.shape(empty["contributions.features"]) == (0, 10)
    rows = [
        await scorer.score(predicting(repository, f, "logits"))
        for f in (FEATURES[None], FEATURES[0], FEATURES[:0])
    ]
    assert [result.rows for result in rows] == [3, 1, 0]


async def test_float64_finishes_the_heads_float32_logits_in_float64(
    scorer: Scorer, repository: Repository
) -> None:
    request = predicting(repository, FEATURES, "logits", "probabilities", dtype=np.dtype(np.float64))
    outputs = await answered(scorer, request)
    logits = np.asarray(outputs["logits"])
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(outputs["probabilities"], softmax(logits.astype(np.float64)))


async def test_contributions_are_the_largest_products_for_the_predicted_class(
    scorer: Scorer, repository: Repository
) -> None:
    request = predicting(repository, FEATURES, "classes", "contributions", top_contributions=3)
    outputs = await answered(scorer, request)
    assert list(outputs) == ["classes", "contributions.features", "contributions.values"]
    features, values = (
        np.asarray(outputs["contributions.features"]),
        np.asarray(outputs["contributions.values"]),
    )
    assert features.shape == values.shape == (3, 3)
    head = repository.head(digits(repository))
    base = head.run(np.zeros((1, 64), np.float32))
    for row, predicted in enumerate(np.asarray(outputs["classes"])):
        alone = np.zeros((1, 64), np.float32)
        alone[0, features[row, 0]] = FEATURES[row, features[row, 0]]
        assert (head.run(alone) - base)[0, predicted] == pytest.approx(values[row, 0], abs=1e-4)
        assert list(values[row]) == sorted(values[row], reverse=True)


async def test_a_version_that_has_gone_is_not_ready(scorer: Scorer, repository: Repository) -> None:
    head = digits(repository)
    gone = HeadInfo(
        model=head.model,
        version="99",
        num_features=head.num_features,
        num_classes=head.num_classes,
        dtype=head.dtype,
        class_names=None,
        digest="0" * 64,
        provider=head.provider,
    )
    request = asked("logits", operation="predict", values=FEATURES, dtype=np.dtype(np.float32), head=gone)
    with pytest.raises(NotReady):
        await scorer.score(request)


async def run(
    scorer: Scorer, cost: float, deadline_s: float, work: Callable[..., T], *arguments: object
) -> T:
    def begin(deliver: Deliver[T], _gone: Gone) -> None:
        scorer.run(cost, deadline_s, deliver, work, *arguments)

    return await awaited(begin)


async def test_cheap_work_stays_on_the_event_loop_and_dear_work_leaves_it(scorer: Scorer) -> None:
    here = threading.current_thread()
    assert await run(scorer, INLINE_COST, math.inf, threading.current_thread) is here
    assert await run(scorer, INLINE_COST + 1, math.inf, threading.current_thread) is not here


async def test_dear_work_gives_the_same_bits(scorer: Scorer) -> None:
    rows = np.random.default_rng(0).normal(size=(INLINE_COST, 3))
    everything: ScoreResult = await scorer.score(asked("probabilities", values=rows))
    some = await scorer.score(asked("probabilities", values=rows[:7]))
    np.testing.assert_array_equal(
        np.asarray(everything.outputs["probabilities"])[:7], some.outputs["probabilities"]
    )


@pytest.mark.parametrize("cost", [1, INLINE_COST + 1])
async def test_work_past_its_deadline_is_dropped_before_it_is_done(scorer: Scorer, cost: int) -> None:
    done: list[int] = []
    with pytest.raises(DeadlineExceeded):
        await run(scorer, cost, time.monotonic() - 1, done.append, 1)
    await run(scorer, cost, time.monotonic() + 60, done.append, 2)
    assert done == [2]


async def test_work_that_waited_past_its_deadline_is_dropped_too(scorer: Scorer) -> None:
    release = threading.Event()
    slow = asyncio.create_task(run(scorer, INLINE_COST + 1, math.inf, release.wait, 10))
    await asyncio.sleep(0)
    done: list[int] = []
    waiting = asyncio.create_task(run(scorer, INLINE_COST + 1, time.monotonic() + 0.05, done.append, 1))
    await asyncio.sleep(0.1)
    release.set()
    await slow
    with pytest.raises(DeadlineExceeded):
        await waiting
    assert done == []


async def test_rows_of_bare_logits_are_counted(scorer: Scorer) -> None:
    for values, axis, rows in ((LOGITS, 1, 2), (LOGITS, 0, 3), (LOGITS[0], 0, 1), (LOGITS[None], 2, 2)):
        result = await scorer.score(asked("classes", values=values, axis=axis))
        assert (result.rows, result.batch_rows, result.head) == (rows, rows, None)


async def test_requests_of_one_turn_run_together_and_get_their_own_rows(repository: Repository) -> None:
    batches: list[tuple[str, str, int]] = []
    scorer = Scorer(repository, observe_batch=lambda *batch: batches.append(batch))
    pieces = [FEATURES[:1], FEATURES[1], FEATURES[None, 1:], FEATURES]
    requests = [
        predicting(repository, piece, "probabilities", "classes", "predicted_names") for piece in pieces
    ]
    results = await asyncio.gather(*map(scorer.score, requests))
    assert batches == [("digits", "1", 7)]
    assert [result.batch_rows for result in results] == [7] * 4
    assert [result.rows for result in results] == [1, 1, 2, 3]
    logits = repository.head(digits(repository)).run(FEATURES)
    names = np.array(digits(repository).class_names)
    for result, rows in zip(results, (logits[:1], logits[1], logits[None, 1:], logits), strict=True):
        np.testing.assert_array_equal(result.outputs["probabilities"], softmax(rows))
        np.testing.assert_array_equal(result.outputs["classes"], rows.argmax(-1))
        assert result.outputs["predicted_names"] == names[rows.argmax(-1)].tolist()
    scorer.close()


async def test_options_of_one_request_do_not_reach_another(scorer: Scorer, repository: Repository) -> None:
    hot = predicting(repository, FEATURES, "probabilities", temperature=10.0)
    wide = predicting(repository, FEATURES, "probabilities", dtype=np.dtype(np.float64))
    plain = predicting(repository, FEATURES, "probabilities")
    apart = [await answered(scorer, request) for request in (hot, wide, plain)]
    together = await asyncio.gather(*(answered(scorer, request) for request in (hot, wide, plain)))
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_array_equal(one["probabilities"], other["probabilities"])
        assert one["probabilities"].dtype == other["probabilities"].dtype


async def test_a_request_whose_logits_overflow_fails_alone(tmp_path: Path) -> None:
    linear = Linear(np.full((2, 2), 2, np.float32), np.zeros(2, np.float32))
    (tmp_path / "double.onnx").write_bytes(build_linear(linear))
    repository = Repository(tmp_path, provider="cpu")
    repository.load()
    scorer = Scorer(repository)
    small = np.ones((3, 2), np.float32)
    huge = np.ones((2, 2, 2), np.float32)
    huge[1, 0] = 3e38
    results = await asyncio.gather(
        *(scorer.score(predicting(repository, rows, "classes")) for rows in (small, huge, small[0])),
        return_exceptions=True,
    )
    error = results[1]
    assert isinstance(error, Invalid)
    assert (error.code, error.offences[0].path) == ("non_finite_logits", "features[1][0]")
    assert isinstance(results[0], ScoreResult)
    assert isinstance(results[2], ScoreResult)
    scorer.close()


async def test_a_share_that_cannot_be_finished_fails_and_nobody_waits_for_ever(
    scorer: Scorer, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_request: ScoreRequest, _classes: object) -> None:
        raise ZeroDivisionError

    info = repository.info("digits", None)
    rows = np.zeros((1, 64), np.float32)
    request = ScoreRequest("predict", rows, 1, info.dtype, ("probabilities", "predicted_names"), head=info)
    monkeypatch.setattr("service.scorer.names_of", broken)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(scorer.score(request), 5)
    assert (await scorer.score(request._replace(outputs=("probabilities",)))).rows == 1


async def test_a_large_request_runs_in_pieces(repository: Repository) -> None:
    scorer = Scorer(repository, BatchLimits(batch_rows=4))
    rows = np.tile(FEATURES, (7, 1))
    outputs = await answered(scorer, predicting(repository, rows, "probabilities", "classes"))
    np.testing.assert_array_equal(
        outputs["probabilities"], softmax(repository.head(digits(repository)).run(rows))
    )
    scorer.close()


async def test_too_many_waiting_rows_are_refused(repository: Repository) -> None:
    scorer = Scorer(repository, BatchLimits(queue_rows=4))
    requests = [predicting(repository, FEATURES, "classes") for _ in range(3)]
    results = await asyncio.gather(*map(scorer.score, requests), return_exceptions=True)
    assert [isinstance(result, ScoreResult) for result in results] == [True, False, False]
    assert isinstance(results[1], QueueFull)
    assert scorer.queue_rows == 0
    scorer.close()


async def test_the_queue_is_the_sum_over_the_heads(scorer: Scorer, repository: Repository) -> None:
    waiting = asyncio.create_task(scorer.score(predicting(repository, FEATURES, "classes")))
    other = asyncio.create_task(scorer.score(predicting(repository, FEATURES[:2], "logits")))
    await asyncio.sleep(0)
    assert scorer.queue_rows == 5
    await asyncio.gather(waiting, other)
    assert scorer.queue_rows == 0


async def test_lanes_go_with_their_head_and_what_waits_in_them_is_answered(tmp_path: Path) -> None:
    linear = Linear(np.full((2, 2), 2, np.float32), np.zeros(2, np.float32))
    (tmp_path / "double.onnx").write_bytes(build_linear(linear))
    repository = Repository(tmp_path, provider="cpu")
    repository.load()
    scorer = Scorer(repository)
    request = predicting(repository, np.ones((3, 2), np.float32), "logits")
    assert request.head is not None
    handle = weakref.ref(repository.head(request.head))
    waiting = asyncio.create_task(scorer.score(request))
    await asyncio.sleep(0)
    repository.follow(repository.plan.unload("double", None))
    repository.release(time.monotonic() + 1)
    scorer.release()
    assert scorer.queue_rows == 0, "its lanes have gone"
    assert handle() is not None, "but somebody waits"
    result = await waiting
    assert np.array_equal(cast("Any", result.outputs["logits"]), np.full((3, 2), 4))
    await asyncio.sleep(0)
    assert handle() is None
    with pytest.raises(NotReady):
        await scorer.score(request)
    scorer.close()


# Heads with a calibration


@pytest.fixture(scope="module", params=["temperature", "vector"])
def calibrated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Repository]:
    said = {
        "temperature": {"method": "temperature", "temperature": 2.5},
        "vector": {"method": "vector", "scale": [0.5, *[-1.25] * 9], "bias": [*[0.125] * 9, 3]},
    }[request.param]
    folder = tmp_path_factory.mktemp("models") / "digits" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes((MODELS / "digits" / "1" / "model.onnx").read_bytes())
    (folder / "head.json").write_text(json.dumps({"calibration": said}))
    repository = Repository(folder.parent.parent, provider="cpu", threads=1)
    repository.load()
    yield repository
    repository.close()


@pytest.mark.parametrize(
    "names",
    [
        ("probabilities",),
        ("classes", "probabilities"),
        ("log_probabilities", "classes", "logits"),
        ("entropy", "probabilities", "classes", "logits"),
    ],
)
async def test_a_calibration_is_the_same_in_a_batch_and_after_it(
    calibrated: Repository, names: tuple[str, ...]
) -> None:
    scorer, info = Scorer(calibrated), digits(calibrated)
    assert info.calibration is not None
    request = predicting(calibrated, FEATURES, *names, calibration=info.calibration)
    raw = calibrated.head(info).run(FEATURES)
    results = await asyncio.gather(*(scorer.score(request) for _ in range(3)))
    assert results[0].batch_rows == 9
    expected = finish(request, raw)
    for result in results:
        for name in names:
            np.testing.assert_array_equal(result.outputs[name], expected[name], err_msg=name)
    lanes = scorer._lanes[calibrated.head(info)]
    assert (("logits",) in lanes) == ("entropy" in names)  # only what the batch cannot make is made after it
    scorer.close()


async def test_without_its_calibration_a_head_is_raw(calibrated: Repository) -> None:
    scorer, info = Scorer(calibrated), digits(calibrated)
    raw = calibrated.head(info).run(FEATURES)
    own, plain, sharp, wide = await asyncio.gather(
        *(
            answered(scorer, predicting(calibrated, FEATURES, "probabilities", "logits", **options))
            for options in (
                {"calibration": info.calibration},
                {},
                {"temperature": 0.5},
                {"calibration": info.calibration, "dtype": np.dtype(np.float64)},
            )
        )
    )
    np.testing.assert_array_equal(plain["probabilities"], softmax(raw))
    np.testing.assert_array_equal(sharp["probabilities"], softmax(raw, temperature=0.5))
    assert np.abs(np.asarray(own["probabilities"]) - plain["probabilities"]).max() > 0.01
    np.testing.assert_allclose(own["probabilities"], wide["probabilities"], rtol=6e-8)
    assert np.asarray(wide["probabilities"]).dtype == np.float64
    for outputs in (own, plain, sharp, wide):
        np.testing.assert_array_equal(outputs["logits"], raw)
    scorer.close()


async def test_one_row_whose_scaled_logits_overflow_fails_alone(tmp_path: Path) -> None:
    linear = Linear(np.eye(2) * 1e300, np.zeros(2))
    folder = tmp_path / "huge" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(build_linear(linear))
    said = {"method": "vector", "scale": [1e19, 1], "bias": [0, 0]}
    (folder / "head.json").write_text(json.dumps({"calibration": said}))
    repository = Repository(tmp_path, provider="cpu")
    repository.load()
    scorer, info = Scorer(repository), repository.info(None, None)
    requests = [
        predicting(repository, np.array([row]), "probabilities", calibration=info.calibration)
        for row in ([1e-300, 0.0], [1.0, 0.0])
    ]
    fine, huge = await asyncio.gather(*map(scorer.score, requests), return_exceptions=True)
    assert isinstance(fine, ScoreResult)
    assert np.asarray(fine.outputs["probabilities"]).tolist() == [[1, 0]]
    assert isinstance(huge, Invalid)
    assert (huge.code, huge.offences[0].path) == ("non_finite_logits", "features[0]")
    scorer.close()
    repository.close()
