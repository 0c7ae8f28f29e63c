"""What waits for heads: who shares a batch, who is scored together, and what goes with a head."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from service import lanes as rooms
from service.heads.graphs import Linear, build_linear
from service.heads.handle import Head
from service.heads.repository import Repository
from service.lanes import JOINED_WEIGHTS, BatchLimits, Lanes

FEATURES = 6


def linear(classes: int, dtype: type = np.float32, features: int = FEATURES, seed: int = 0) -> bytes:
    random = np.random.default_rng(seed)
    weights, bias = random.normal(size=(features, classes)), random.normal(size=classes)
    return build_linear(Linear(weights.astype(dtype), bias.astype(dtype)))


BENT = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] features) => (float[N,2] logits) '
    "<float[6,2] W = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}> { x = Relu(features) logits = MatMul(x, W) }"
).SerializeToString()
HEADS = {
    "a": linear(2),
    "b": linear(3, seed=1),
    "c": linear(4, seed=2),
    "bent": BENT,
    "wide": linear(2, np.float64),
    "wider": linear(3, np.float64),
    "large": linear(JOINED_WEIGHTS // 4096, features=4096),
}


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    for name, model in HEADS.items():
        folder = tmp_path / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(model)
    repository = Repository(tmp_path, provider="cpu")
    repository.load()
    yield repository
    repository.close()


@pytest.fixture
def observed() -> list[tuple[str, str, int]]:
    return []


@pytest.fixture
def lanes(repository: Repository, observed: list[tuple[str, str, int]]) -> Iterator[Lanes]:
    lanes = Lanes(repository, BatchLimits(), lambda *batch: observed.append(batch))
    yield lanes
    for batcher in lanes.batchers():
        batcher.close()


def heads(repository: Repository, *names: str) -> list[Head]:
    return [repository.head(repository.info(name, None)) for name in names]


def make_ready(lanes: Lanes, found: list[Head]) -> None:
    while (work := lanes.unready(found)) is not None:
        work()


def together(lanes: Lanes, found: list[Head]) -> list[list[int]]:
    make_ready(lanes, found)
    return [places for places, _ in lanes.joined(found, sparse=False)]


def test_outputs_made_of_the_same_arrays_share_a_lane(repository: Repository, lanes: Lanes) -> None:
    (head,) = heads(repository, "a")

    def lane(*outputs: str, sparse: bool = False) -> rooms.Lane:
        return lanes.find(head, outputs, sparse=sparse)

    assert lane("classes", "probabilities") is lane("probabilities", "classes")
    assert lane("classes") is lane("predicted_names")
    assert lane("entropy") is lane("logits") is lane("loss", "classes")
    assert lane("logits", sparse=True).batcher is not lane("logits").batcher
    assert len(lanes.batchers()) == 4


def test_small_linear_heads_of_one_dtype_are_joined(repository: Repository, lanes: Lanes) -> None:
    found = heads(repository, "b", "wide", "bent", "a", "wider", "c")
    assert together(lanes, found) == [[3, 0, 5], [1, 4]]
    assert together(lanes, heads(repository, "a", "bent")) == []
    assert together(lanes, heads(repository, "a")) == []


def test_the_order_in_which_heads_are_asked_makes_no_other_set(repository: Repository, lanes: Lanes) -> None:
    assert together(lanes, heads(repository, "a", "b")) == [[0, 1]]
    batchers = lanes.batchers()
    assert together(lanes, heads(repository, "b", "a")) == [[1, 0]]
    assert lanes.batchers() == batchers


def test_large_heads_are_not_joined_and_their_weights_not_even_read(
    repository: Repository, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = heads(repository, "a", "large", "b")
    monkeypatch.setattr(rooms, "JOINED_WEIGHTS", JOINED_WEIGHTS // 2)
    assert together(lanes, found) == [[0, 2]]
    assert [head.is_read for head in found] == [True, False, True]


def test_heads_that_are_large_together_are_not_joined(
    repository: Repository, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = heads(repository, "a", "b", "c")
    monkeypatch.setattr(rooms, "JOINED_WEIGHTS", FEATURES * 8)
    assert together(lanes, found) == []
    assert together(lanes, found[:2]) == [[0, 1]]


def test_there_are_only_so_many_sets_and_the_first_stay(
    repository: Repository, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "JOINED_SETS", 1)
    assert together(lanes, heads(repository, "a", "b")) == [[0, 1]]
    assert together(lanes, heads(repository, "a", "c")) == []
    assert together(lanes, heads(repository, "a", "b")) == [[0, 1]]


@pytest.mark.anyio
async def test_joined_heads_answer_what_they_would_alone_within_their_bound(
    repository: Repository, lanes: Lanes, observed: list[tuple[str, str, int]]
) -> None:
    found = heads(repository, "c", "a", "b")
    make_ready(lanes, found)
    rows = np.random.default_rng(5).normal(size=(9, FEATURES)).astype(np.float32)
    ((places, batcher),) = lanes.joined(found, sparse=False)
    batched = await batcher.submit(rows)
    for place, logits in zip(places, batched.arrays, strict=True):
        weights = found[place].read()
        assert weights is not None
        exact = rows.astype(np.float64) @ weights.weights.astype(np.float64) + weights.bias
        size = np.abs(rows).astype(np.float64) @ np.abs(weights.weights) + np.abs(weights.bias)
        assert (np.abs(logits - exact) <= (FEATURES + 1) * 2.0**-24 * size).all()
        assert logits.flags.c_contiguous, "as JSON and binary tensors are written from"
    assert sorted(observed) == [("a", "1", 9), ("b", "1", 9), ("c", "1", 9)]


@pytest.mark.anyio
async def test_a_set_goes_with_any_of_its_heads(repository: Repository, lanes: Lanes) -> None:
    found = heads(repository, "a", "b")
    other = heads(repository, "wide", "wider")
    assert together(lanes, found) == [[0, 1]]
    assert together(lanes, other) == [[0, 1]]
    lanes.find(found[0], ("logits",), sparse=False)
    assert len(lanes.batchers()) == 5
    repository.follow(repository.plan.unload("b", None))
    lanes.release()
    assert len(lanes.batchers()) == 5, "whoever found the head before may still come"
    repository.release(time.monotonic() + 1)
    lanes.release()
    assert len(lanes.batchers()) == 3
    assert list(lanes.joined(found, sparse=False)) == []
    assert together(lanes, other) == [[0, 1]]
