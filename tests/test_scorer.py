"""The core: every output of every operation, what runs where, and what is dropped."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import MODELS

from service.errors import DeadlineExceeded, Invalid, NotReady
from service.heads.repository import Repository
from service.numeric.losses import cross_entropy
from service.numeric.softmax import log_softmax, softmax
from service.scorer import INLINE_COST, OUTPUTS, Scorer
from service.types import FloatArray, HeadInfo, Labels, ScoreRequest, ScoreResult

pytestmark = pytest.mark.anyio

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


async def test_outputs_come_in_the_order_asked_and_nothing_else_does(scorer: Scorer) -> None:
    result = await scorer.score(asked("classes", "probabilities"))
    assert list(result.outputs) == ["classes", "probabilities"]
    assert result.rows == 2
    assert result.head is None


async def test_probabilities_their_logarithms_and_classes(scorer: Scorer) -> None:
    outputs = await answered(
        scorer, asked("probabilities", "log_probabilities", "classes", "one_hot", "entropy")
    )
    np.testing.assert_array_equal(outputs["probabilities"], softmax(LOGITS))
    np.testing.assert_array_equal(outputs["log_probabilities"], log_softmax(LOGITS))
    np.testing.assert_array_equal(outputs["classes"], [1, 0])
    np.testing.assert_array_equal(outputs["one_hot"], [[0, 1, 0], [1, 0, 0]])
    expected = -(softmax(LOGITS) * log_softmax(LOGITS)).sum(-1)
    np.testing.assert_allclose(outputs["entropy"], expected, rtol=1e-12)


async def test_the_best_classes_with_their_probabilities_and_names(scorer: Scorer) -> None:
    request = asked(
        "top_classes", "top_probabilities", "top_names", "predicted_names", top_k=2, class_names=NAMES
    )
    outputs = await answered(scorer, request)
    np.testing.assert_array_equal(outputs["top_classes"], [[1, 0], [0, 2]])
    p = softmax(LOGITS)
    np.testing.assert_array_equal(outputs["top_probabilities"], [[p[0, 1], p[0, 0]], [p[1, 0], p[1, 2]]])
    assert outputs["top_names"] == [["dog", "cat"], ["cat", "eel"]]
    assert outputs["predicted_names"] == ["dog", "cat"]


async def test_a_single_row_gives_single_answers(scorer: Scorer) -> None:
    request = asked("classes", "predicted_names", "entropy", values=LOGITS[0], class_names=NAMES)
    result = await scorer.score(request)
    assert result.outputs["predicted_names"] == "dog"
    assert np.asarray(result.outputs["classes"]).shape == ()
    assert result.rows == 1


async def test_the_class_axis_may_lie_anywhere(scorer: Scorer) -> None:
    values = np.ascontiguousarray(LOGITS.T)
    request = asked("probabilities", "one_hot", "top_probabilities", values=values, axis=0, top_k=3)
    outputs = await answered(scorer, request)
    np.testing.assert_array_equal(outputs["probabilities"], softmax(LOGITS).T)
    np.testing.assert_array_equal(outputs["one_hot"], [[0, 1], [1, 0], [0, 0]])
    np.testing.assert_array_equal(outputs["top_probabilities"], np.sort(softmax(LOGITS).T, axis=0)[::-1])


async def test_losses_and_what_comes_with_them(scorer: Scorer) -> None:
    labels = Labels(np.array([1, 2]), "index")
    request = asked("loss", "losses", "count", "accuracy", "brier", "gradient", labels=labels)
    outputs = await answered(scorer, request)
    expected = cross_entropy(LOGITS, np.array([1, 2]))
    assert outputs["loss"] == expected.loss
    assert outputs["loss"] == pytest.approx(0.8393433389787792, abs=1.2e-16)
    np.testing.assert_array_equal(outputs["losses"], expected.losses)
    assert outputs["count"] == 2
    assert outputs["accuracy"] == 0.5
    truth = np.eye(3)[[1, 2]]
    np.testing.assert_allclose(outputs["brier"], ((softmax(LOGITS) - truth) ** 2).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(outputs["gradient"], (softmax(LOGITS) - truth) / 2, rtol=1e-12)


async def test_the_temperature_divides_the_logits(scorer: Scorer) -> None:
    result = await scorer.score(asked("probabilities", temperature=2.5))
    np.testing.assert_array_equal(result.outputs["probabilities"], softmax(LOGITS, temperature=2.5))


MASKED = np.array([[0.0, -np.inf], [1.0, 2.0]])


@pytest.mark.parametrize("output", ["loss", "losses"])
async def test_an_infinite_loss_is_an_error_that_names_the_example(scorer: Scorer, output: str) -> None:
    labels = Labels(np.array([1, 1]), "index")
    with pytest.raises(Invalid) as caught:
        await scorer.score(asked(output, values=MASKED, labels=labels))
    assert caught.value.code == "infinite_loss"
    assert [offence.path for offence in caught.value.offences] == ["losses[0]"]


async def test_an_infinite_loss_is_answered_where_that_was_asked_for(scorer: Scorer) -> None:
    labels = Labels(np.array([1, 1]), "index", non_finite="string")
    outputs = await answered(scorer, asked("loss", "losses", values=MASKED, labels=labels))
    assert outputs["loss"] == np.inf
    assert np.isinf(np.asarray(outputs["losses"])).tolist() == [True, False]


async def test_finite_losses_with_an_infinite_sum_are_an_error_at_the_loss(scorer: Scorer) -> None:
    values = np.array([[1.7e308, 0.0], [1.7e308, 0.0]])
    labels = Labels(np.array([1, 1]), "index", reduction="sum")
    with pytest.raises(Invalid) as caught:
        await scorer.score(asked("loss", values=values, labels=labels))
    assert [offence.path for offence in caught.value.offences] == ["loss"]


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


async def test_every_output_has_one_place_where_it_is_made() -> None:
    assert {"probabilities", "losses", "loss", "logits", "top_names", "gradient"} <= set(OUTPUTS)
    assert "contributions" not in OUTPUTS, "it is two arrays, made beside the others"


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


async def test_cheap_work_stays_on_the_event_loop_and_dear_work_leaves_it(scorer: Scorer) -> None:
    here = threading.current_thread()
    assert await scorer.run(INLINE_COST, None, threading.current_thread) is here
    assert await scorer.run(INLINE_COST + 1, None, threading.current_thread) is not here


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
        await scorer.run(cost, time.monotonic() - 1, done.append, 1)
    await scorer.run(cost, time.monotonic() + 60, done.append, 2)
    assert done == [2]


async def test_work_that_waited_past_its_deadline_is_dropped_too(scorer: Scorer) -> None:
    release = threading.Event()
    slow = asyncio.create_task(scorer.run(INLINE_COST + 1, None, release.wait, 10))
    await asyncio.sleep(0)
    done: list[int] = []
    waiting = asyncio.create_task(scorer.run(INLINE_COST + 1, time.monotonic() + 0.05, done.append, 1))
    await asyncio.sleep(0.1)
    release.set()
    await slow
    with pytest.raises(DeadlineExceeded):
        await waiting
    assert done == []
