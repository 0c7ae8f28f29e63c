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
import onnx.parser
import pytest
from conftest import MODELS
from scipy.sparse import csr_array

from service.errors import DeadlineExceeded, Invalid, NotReady, QueueFull, TooLarge
from service.finishing import OUTPUTS, finish
from service.heads.graphs import Linear, build_linear, read_linear
from service.heads.repository import Repository
from service.numeric.softmax import softmax
from service.outcomes import Deliver, Gone, awaited
from service.scorer import INLINE_COST, BatchLimits, Scorer
from service.types import (
    Decision,
    Features,
    FloatArray,
    HeadInfo,
    Labels,
    ScoreRequest,
    ScoreResult,
    SparseRows,
)

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


def asked(*outputs: str, values: Features = LOGITS, **options: Any) -> ScoreRequest:
    dtype = np.dtype(np.float32) if isinstance(values, SparseRows) else values.dtype
    fields = {"operation": "softmax", "axis": values.ndim - 1, "dtype": dtype, **options}
    return ScoreRequest(values=values, outputs=outputs, **fields)


def digits(repository: Repository) -> HeadInfo:
    return repository.info(None, None)


def predicting(repository: Repository, features: Features, *outputs: str, **options: Any) -> ScoreRequest:
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


async def test_a_row_that_overflows_is_named_by_its_place_in_the_request_not_in_its_piece(
    tmp_path: Path,
) -> None:
    linear = Linear(np.full((2, 2), 2, np.float32), np.zeros(2, np.float32))
    (tmp_path / "double.onnx").write_bytes(build_linear(linear))
    repository = Repository(tmp_path, provider="cpu")
    repository.load()
    scorer = Scorer(repository, BatchLimits(batch_rows=4))
    rows = np.ones((10, 2), np.float32)
    rows[7] = 3e38
    with pytest.raises(Invalid) as caught:
        await scorer.score(predicting(repository, rows, "classes"))
    assert caught.value.offences[0].path == "features[7]"
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


# Sparse rows


def rows_of(dense: FloatArray) -> SparseRows:
    found = csr_array(dense)
    return SparseRows(
        found.indptr.astype(np.int64), found.indices.astype(np.int64), found.data, dense.shape[1]
    )


BIAS = np.zeros(2, np.float32)
BENT = (
    '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] features) => (float[N,2] logits) '
    "<float[3,2] W = {1, 2, 3, 4, 5, 6}> { x = Relu(features) logits = MatMul(x, W) }"
)


def heads(root: Path, **models: bytes) -> Repository:
    for name, model in models.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.onnx").write_bytes(model)
    repository = Repository(root, provider="cpu")
    repository.load()
    return repository


async def test_sparse_rows_get_every_output_of_the_dense_ones(scorer: Scorer, repository: Repository) -> None:
    labels = Labels(np.array([1, 2, 3]), "index")
    names = tuple(name for name in OUTPUTS if name not in {"top_names", "one_hot"})
    rules = Decision(costs=1.0 - np.eye(10))
    request = predicting(
        repository, FEATURES, *names, "contributions", labels=labels, top_k=2, decision=rules
    )
    dense = await scorer.score(request)
    sparse = await scorer.score(request._replace(values=rows_of(FEATURES)))
    assert list(sparse.outputs) == list(dense.outputs)
    assert (sparse.rows, sparse.head) == (dense.rows, dense.head)
    for name, value in dense.outputs.items():  # the digits are exact whichever way they are summed
        np.testing.assert_array_equal(sparse.outputs[name], value, err_msg=name)


async def test_sparse_requests_of_one_turn_run_together_and_never_with_dense_ones(
    repository: Repository,
) -> None:
    batches: list[int] = []
    scorer = Scorer(repository, observe_batch=lambda _model, _version, rows: batches.append(rows))
    await scorer.score(predicting(repository, rows_of(FEATURES), "logits"))  # reads the weights
    batches.clear()
    pieces = [FEATURES[:1], FEATURES[1:], FEATURES[:0], FEATURES]
    requests = [predicting(repository, rows_of(piece), "logits", "classes") for piece in pieces]
    results = await asyncio.gather(
        scorer.score(predicting(repository, FEATURES, "logits", "classes")), *map(scorer.score, requests)
    )
    assert sorted(batches) == [3, 6]
    logits = repository.head(digits(repository)).run(FEATURES)
    for result, expected in zip(results, [logits, logits[:1], logits[1:], logits[:0], logits], strict=True):
        np.testing.assert_array_equal(result.outputs["logits"], expected)
        np.testing.assert_array_equal(result.outputs["classes"], expected.argmax(-1))
    scorer.close()


async def test_sparse_rows_at_once_over_the_batch_limit_run_in_pieces(repository: Repository) -> None:
    scorer = Scorer(repository, BatchLimits(batch_rows=2))
    result = await scorer.score(predicting(repository, rows_of(FEATURES), "logits"))
    np.testing.assert_array_equal(result.outputs["logits"], repository.head(digits(repository)).run(FEATURES))
    scorer.close()


async def test_a_sparse_row_that_overflows_fails_alone(tmp_path: Path) -> None:
    repository = heads(tmp_path, huge=build_linear(Linear(np.full((99, 2), 3e38, np.float32), BIAS)))
    scorer = Scorer(repository)
    dense = np.zeros((3, 99), np.float32)
    dense[2, :9] = 9
    good, bad = rows_of(dense[:2]), rows_of(dense)
    head = repository.info("huge", None)
    requests = [
        asked("classes", operation="predict", values=values, head=head, dtype=head.dtype, axis=1)
        for values in (good, bad)
    ]
    outcomes = await asyncio.gather(*map(scorer.score, requests), return_exceptions=True)
    assert isinstance(outcomes[0], ScoreResult)
    assert isinstance(outcomes[1], Invalid)
    assert outcomes[1].offences[0].path == "features[2]"
    scorer.close()


async def test_zeros_count_against_the_limit_only_where_they_are_needed(tmp_path: Path) -> None:
    bent = onnx.parser.parse_model(BENT).SerializeToString()
    straight = build_linear(Linear(np.ones((3, 2), np.float32), BIAS))
    repository = heads(tmp_path, bent=bent, straight=straight)
    scorer = Scorer(repository, BatchLimits(elements=8))
    rows = rows_of(np.eye(3, dtype=np.float32))

    def asking(model: str, values: SparseRows) -> ScoreRequest:
        head = repository.info(model, None)
        return asked("classes", operation="predict", values=values, head=head, dtype=head.dtype, axis=1)

    assert (await scorer.score(asking("straight", rows))).rows == 3
    assert (await scorer.score(asking("bent", rows[:2]))).rows == 2
    for _ in range(2):
        with pytest.raises(TooLarge, match=r"at most 8 numbers .* not linear, got 9") as raised:
            await scorer.score(asking("bent", rows))
        assert raised.value.code == "elements_too_many"
    scorer.close()


async def test_weights_are_read_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = heads(tmp_path, straight=build_linear(Linear(np.ones((3, 2), np.float32), BIAS)))
    scorer = Scorer(repository)
    threads: list[threading.Thread] = []

    def read(model: bytes, **names: str) -> Linear | None:
        threads.append(threading.current_thread())
        return read_linear(model, **names)

    monkeypatch.setattr("service.heads.handle.read_linear", read)
    head = repository.info("straight", None)
    request = asked(
        "classes",
        operation="predict",
        values=rows_of(np.eye(3, dtype=np.float32)),
        head=head,
        dtype=head.dtype,
        axis=1,
    )
    await asyncio.gather(*[scorer.score(request) for _ in range(4)])
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    with pytest.raises(DeadlineExceeded):
        await scorer.score(request, time.monotonic() - 1)
    scorer.close()


# Several heads


def all_heads(root: Path, classes: int = 3) -> Repository:
    random = np.random.default_rng(3)

    def linear(count: int, dtype: type = np.float32) -> bytes:
        weights, bias = random.normal(size=(3, count)), random.normal(size=count)
        return build_linear(Linear(weights.astype(dtype), bias.astype(dtype)))

    bent = onnx.parser.parse_model(BENT).SerializeToString()
    return heads(root, one=linear(classes), two=linear(2), double=linear(2, np.float64), bent=bent)


async def each(
    scorer: Scorer, requests: tuple[ScoreRequest, ...], deadline_s: float = math.inf
) -> tuple[ScoreResult, ...]:
    return await awaited(lambda deliver, gone: scorer.begin_each(requests, deadline_s, deliver, gone))


def asking_each(
    repository: Repository, features: FloatArray, *outputs: str, sparse: bool = False, **options: Any
) -> tuple[ScoreRequest, ...]:
    requests = []
    for model in ("bent", "double", "one", "two"):
        head = repository.info(model, None)
        rows = cast("FloatArray", features.astype(head.dtype))
        values = rows_of(rows) if sparse else rows
        given = {"axis": features.ndim - 1, "dtype": head.dtype, **options}
        requests.append(asked(*outputs, operation="predict", values=values, head=head, **given))
    return tuple(requests)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("outputs", [("probabilities", "classes"), ("entropy",), ("contributions",)])
async def test_several_heads_answer_as_each_does_alone(
    tmp_path: Path, outputs: tuple[str, ...], *, sparse: bool
) -> None:
    repository = all_heads(tmp_path)
    scorer = Scorer(repository)
    features = np.random.default_rng(0).normal(size=(5, 3))
    requests = asking_each(repository, features, *outputs, sparse=sparse, top_contributions=2)
    if outputs == ("contributions",):
        requests = requests[1:]  # one of them is not linear
    for _ in range(2):  # the second time all is ready
        results = await each(scorer, requests)
        for request, result in zip(requests, results, strict=True):
            alone = await scorer.score(request)
            assert result.head == request.head
            assert list(result.outputs) == list(alone.outputs)
            assert (result.rows, result.batch_rows) == (5, 5)
            for name, value in alone.outputs.items():
                found, expected = np.asarray(result.outputs[name]), np.asarray(value)
                assert found.dtype == expected.dtype
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    scorer.close()


async def test_several_heads_take_features_of_any_rank(tmp_path: Path) -> None:
    repository = all_heads(tmp_path)
    scorer = Scorer(repository)
    single = await each(scorer, asking_each(repository, np.ones(3), "logits", "classes"))
    deep = await each(scorer, asking_each(repository, np.ones((2, 1, 3)), "logits", "classes"))
    none = await each(scorer, asking_each(repository, np.ones((0, 3)), "logits", "classes"))
    assert [np.asarray(result.outputs["logits"]).shape for result in single] == [(2,), (2,), (3,), (2,)]
    assert [np.asarray(result.outputs["classes"]).shape for result in deep] == [(2, 1)] * 4
    assert [result.rows for result in none] == [0] * 4
    scorer.close()


async def test_requests_for_the_same_heads_run_together(tmp_path: Path) -> None:
    batches: list[tuple[str, int]] = []
    repository = all_heads(tmp_path)
    scorer = Scorer(repository, observe_batch=lambda model, _version, rows: batches.append((model, rows)))
    requests = asking_each(repository, np.ones((2, 3)), "classes")
    await each(scorer, requests)
    batches.clear()
    await asyncio.gather(*[each(scorer, requests) for _ in range(3)])
    assert sorted(batches) == [("bent", 6), ("double", 6), ("one", 6), ("two", 6)]
    scorer.close()


async def test_what_one_head_fails_with_fails_the_request_and_nobody_else(tmp_path: Path) -> None:
    repository = all_heads(tmp_path)
    scorer = Scorer(repository)
    explained = asking_each(repository, np.ones((1, 3)), "contributions")  # which one of them has not
    huge = asking_each(repository, np.full((1, 3), 3e38), "classes")
    good = asking_each(repository, np.ones((1, 3)), "classes")
    outcomes = await asyncio.gather(
        *[each(scorer, requests) for requests in (explained, huge, good)], return_exceptions=True
    )
    assert [getattr(outcome, "code", None) for outcome in outcomes] == [
        "not_linear",
        "non_finite_logits",
        None,
    ]
    assert not isinstance(outcomes[2], BaseException)
    assert len(outcomes[2]) == 4
    scorer.close()


async def test_several_heads_are_refused_late_or_gone_or_in_too_long_a_queue(tmp_path: Path) -> None:
    repository = all_heads(tmp_path)
    scorer = Scorer(repository, BatchLimits(queue_rows=3))
    requests = asking_each(repository, np.ones((2, 3)), "classes")
    with pytest.raises(DeadlineExceeded):
        await each(scorer, requests, time.monotonic() - 1)
    await each(scorer, requests)
    with pytest.raises(DeadlineExceeded):
        await each(scorer, requests, time.monotonic() - 1)
    outcomes = await asyncio.gather(*[each(scorer, requests) for _ in range(2)], return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [tuple, QueueFull]
    repository.follow(repository.plan.unload("two", None))
    repository.release(time.monotonic() + 1)
    scorer.release()
    with pytest.raises(NotReady):
        await each(scorer, requests)
    assert len(await each(scorer, requests[:3])) == 3
    scorer.close()


async def test_requests_to_several_heads_are_heard_of_once_each(
    repository: Repository, tmp_path: Path
) -> None:
    several = all_heads(tmp_path)
    scorer = Scorer(several)
    heard: list[str] = []
    scorer.observe_request = lambda request: heard.append(request.head.model if request.head else "")
    await each(scorer, asking_each(several, np.ones((2, 3), np.float32), "classes"))
    await each(scorer, asking_each(several, np.ones((2, 3), np.float32), "classes"))
    assert sorted(heard) == sorted(["bent", "double", "one", "two"] * 2)
    scorer.close()


@pytest.mark.parametrize("rows", [2, INLINE_COST // 10 + 1])
async def test_labels_are_heard_of_unless_nobody_is_to_be_judged_by_them(
    repository: Repository, rows: int
) -> None:
    heard: list[ScoreRequest] = []
    scorer = Scorer(repository, answered=lambda request, _logits: heard.append(request))
    labels = Labels(np.zeros(rows, np.int64), "index")
    head = predicting(repository, np.ones((rows, 64), np.float32), "loss", labels=labels)
    bare = asked("loss", values=np.ones((rows, 10)), operation="loss", labels=labels)
    for request in (head, bare):
        meant = await scorer.score(request)
        tried = await scorer.score(request._replace(judged=False))
        assert tried.outputs == meant.outputs
    await each(scorer, (head._replace(judged=False), head))
    assert [request is head for request in heard] == [True, False, True]
    assert heard[1] is bare
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
    lanes = scorer._lanes._of[calibrated.head(info)].dense
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
