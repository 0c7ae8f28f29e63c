"""A shadow version beside the one that answers: what is compared, what it says, and that no answer waits for it."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import connected
from numpy.typing import NDArray
from pydantic import SecretStr
from scipy import special, stats

from service.app import create_app
from service.heads.graphs import Linear, build_linear
from service.heads.handle import Head
from service.heads.repository import Repository
from service.instruments import SHADOW_DROPPED, SHADOW_SUMS, Labels
from service.settings import Settings
from service.shadow import WAITING_ROWS, Shadow, compare, summary
from service.types import Labels as Truth
from service.types import ScoreRequest

pytestmark = pytest.mark.anyio

NAMES = ["cat", "dog", "eel"]
KEY = {"authorization": "Bearer change-me"}
PAIR: Labels = ("pets", "1", "2")
# The logits of version 1 are the features, those of version 2 have one class moved.
BIASES = {1: (0.0, 0.0, 0.0), 2: (0.0, 0.75, 0.0), 3: (0.0, 0.0, 5.0)}
ROWS = np.random.default_rng(0).normal(0, 2, (50, 3)).astype(np.float32)
TRUTH = np.random.default_rng(1).integers(0, 3, 50)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for version, bias in BIASES.items():
        made = tmp_path / "pets" / str(version)
        made.mkdir(parents=True)
        linear = Linear(np.eye(3, dtype=np.float32), np.array(bias, np.float32))
        (made / "model.onnx").write_bytes(build_linear(linear))
        (made / "head.json").write_text(json.dumps({"class_names": NAMES}), encoding="utf-8")
    return tmp_path


@pytest.fixture
def repository(folder: Path) -> Iterator[Repository]:
    repository = Repository(folder, provider="cpu")
    repository.load()
    repository.follow(repository.plan.name("pets", "shadow", "2"))
    yield repository
    repository.close()


def head(repository: Repository, version: str) -> Head:
    return repository.head(repository.info("pets", version))


def asked(repository: Repository, *, labels: bool = False, rows: NDArray[np.float32] = ROWS) -> ScoreRequest:
    info = repository.info("pets", "1")
    truth = Truth(TRUTH[: len(rows)], "index") if labels else None
    return ScoreRequest("predict", rows, 1, info.dtype, ("classes",), labels=truth, head=info)


def expected_logits(version: int) -> NDArray[np.float64]:
    """The head's own are of float32; what comes after is of float64."""
    return (ROWS + np.array(BIASES[version], np.float32)).astype(np.float64)


def expected_losses(version: int) -> NDArray[np.float64]:
    logits = expected_logits(version)
    losses: NDArray[np.float64] = special.logsumexp(logits, axis=1) - logits[np.arange(50), TRUTH]
    return losses


# What is compared


def test_a_comparison_is_the_definition(repository: Repository) -> None:
    sums = compare(asked(repository, labels=True), head(repository, "1"), head(repository, "2"))
    one, other = (special.log_softmax(expected_logits(v), axis=1) for v in (1, 2))
    assert sums.rows == sums.labelled_rows == 50
    assert sums.disagreements == (one.argmax(1) != other.argmax(1)).sum() > 0
    np.testing.assert_allclose(sums.divergence_nats, (np.exp(one) * (one - other)).sum(), rtol=1e-12)
    differences = expected_losses(2) - expected_losses(1)
    np.testing.assert_allclose(sums.harm_nats - sums.gain_nats, differences.sum(), rtol=1e-12)
    np.testing.assert_allclose(sums.squares, (differences**2).sum(), rtol=1e-12)
    assert min(sums.gain_nats, sums.harm_nats) > 0


def test_without_labels_there_is_no_difference_in_loss(repository: Repository) -> None:
    sums = compare(asked(repository), head(repository, "1"), head(repository, "2"))
    assert sums[3:] == (0, 0, 0, 0)


def test_labels_that_nobody_is_judged_by_make_none_either(repository: Repository) -> None:
    request = asked(repository, labels=True)
    tried = compare(request._replace(judged=False), head(repository, "1"), head(repository, "2"))
    meant = compare(request, head(repository, "1"), head(repository, "2"))
    assert tried[3:] == (0, 0, 0, 0)
    assert tried[:3] == meant[:3], "its rows are compared as they would be without labels"


def test_a_version_is_no_different_from_itself(repository: Repository) -> None:
    sums = compare(asked(repository, labels=True), head(repository, "1"), head(repository, "1"))
    assert sums == (50, 0, 0, 50, 0, 0, 0)


# A version 4 that only tempers version 1: logits are the features.
TEMPERATURE = 2.5


@pytest.fixture
def tempered(folder: Path) -> Iterator[Repository]:
    made = folder / "pets" / "4"
    made.mkdir()
    (made / "model.onnx").write_bytes((folder / "pets" / "1" / "model.onnx").read_bytes())
    said = {"class_names": NAMES, "calibration": {"method": "temperature", "temperature": TEMPERATURE}}
    (made / "head.json").write_text(json.dumps(said), encoding="utf-8")
    repository = Repository(folder, provider="cpu")
    repository.load()
    yield repository
    repository.close()


def divergence(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    first, second = special.log_softmax(one, axis=1), special.log_softmax(other, axis=1)
    return float((np.exp(first) * (first - second)).sum())


@pytest.mark.parametrize(("live", "shadow"), [("1", "4"), ("4", "1")])
def test_each_version_has_its_own_calibration(tempered: Repository, live: str, shadow: str) -> None:
    info = tempered.info("pets", live)
    request = asked(tempered, labels=True)._replace(head=info, calibration=info.calibration)
    sums = compare(request, head(tempered, live), head(tempered, shadow))
    logits = {"1": expected_logits(1), "4": expected_logits(1) / TEMPERATURE}
    np.testing.assert_allclose(sums.divergence_nats, divergence(logits[live], logits[shadow]), rtol=1e-12)
    assert sums.disagreements == 0
    assert sums.squares > 0


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_who_asks_for_no_calibration_has_none_compared(tempered: Repository, temperature: float) -> None:
    request = asked(tempered)._replace(head=tempered.info("pets", "4"), temperature=temperature)
    sums = compare(request, head(tempered, "4"), head(tempered, "1"))
    assert sums.divergence_nats == 0


# What it says


def values_of(*sums: float, dropped: float = 0) -> dict[str, dict[Labels, float]]:
    told = {instrument.name: {PAIR: value} for instrument, value in zip(SHADOW_SUMS, sums, strict=True)}
    return {**told, SHADOW_DROPPED.name: {PAIR: dropped}}


def test_the_interval_is_that_of_a_paired_mean(repository: Repository) -> None:
    sums = compare(asked(repository, labels=True), head(repository, "1"), head(repository, "2"))
    (told,) = summary(values_of(*sums), "pets")
    differences = expected_losses(2) - expected_losses(1)
    error = stats.sem(differences)
    expected = stats.norm.interval(0.95, differences.mean(), error)
    np.testing.assert_allclose(told["loss_difference_nats"], differences.mean(), rtol=1e-10)
    np.testing.assert_allclose(told["loss_difference_interval_nats"], expected, rtol=1e-8)


def test_sums_of_several_workers_say_what_one_would(repository: Repository) -> None:
    live, shadow = head(repository, "1"), head(repository, "2")
    parts = [compare(asked(repository, rows=rows), live, shadow) for rows in (ROWS[:20], ROWS[20:])]
    whole = compare(asked(repository), live, shadow)
    np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-12)


def test_what_nobody_knows_is_null() -> None:
    (told,) = summary(values_of(0, 0, 0, 0, 0, 0, 0, dropped=7), "pets")
    assert told["disagreement"] is told["loss_difference_nats"] is None
    assert told["dropped_rows"] == 7
    (one,) = summary(values_of(1, 0, 0, 1, 0.5, 0, 0.25), "pets")
    assert (one["loss_difference_nats"], one["loss_difference_interval_nats"]) == (-0.5, None)
    assert summary(values_of(1, 0, 0, 1, 0.5, 0, 0.25), "cars") == []


# Beside the answers


class Heard:
    def __init__(self) -> None:
        self.counted: list[tuple[Labels, tuple[float, ...]]] = []
        self.dropped: list[tuple[Labels, int]] = []

    def shadow(self, repository: Repository) -> Shadow:
        return Shadow(
            repository,
            lambda key, sums: self.counted.append((key, tuple(sums))),
            lambda key, rows: self.dropped.append((key, rows)),
        )


def test_requests_are_compared_and_too_many_rows_dropped(repository: Repository) -> None:
    heard = Heard()
    shadow = heard.shadow(repository)
    shadow.offer(asked(repository))
    shadow.offer(asked(repository, rows=np.zeros((WAITING_ROWS + 1, 3), np.float32)))
    shadow._thread.shutdown()
    assert [(key, sums[0]) for key, sums in heard.counted] == [(PAIR, 50)]
    assert heard.dropped == [(PAIR, WAITING_ROWS + 1)]


def test_what_cannot_be_compared_is_left_alone(repository: Repository) -> None:
    heard = Heard()
    shadow = heard.shadow(repository)
    request = asked(repository)
    shadow.offer(request._replace(head=repository.info("pets", "2")))  # the shadow itself
    repository.follow(repository.plan.name("pets", "shadow", None))
    shadow.offer(request)
    shadow._thread.shutdown()
    assert (heard.counted, heard.dropped) == ([], [])


def test_a_comparison_that_fails_is_dropped_and_the_next_is_made(repository: Repository) -> None:
    heard = Heard()
    shadow = heard.shadow(repository)
    request = asked(repository, labels=True)
    assert request.labels is not None
    beyond = Truth(np.full(50, math.inf), "dense")
    shadow.offer(request._replace(labels=beyond))
    shadow.offer(request)
    shadow._thread.shutdown()
    assert heard.dropped == [(PAIR, 50)]
    assert len(heard.counted) == 1


def test_the_shadow_answers_only_by_name(repository: Repository) -> None:
    assert repository.info("pets", None).version == "3"
    repository.follow(repository.plan.name("pets", "shadow", "3"))
    assert repository.info("pets", None).version == "2"
    assert repository.info("pets", "shadow").version == "3"
    repository.follow(repository.plan.unload("pets", "1").unload("pets", "2"))
    assert repository.info("pets", None).version == "3", "it is better than nothing"
    assert repository.shadows == {}


# From end to end


@pytest.fixture
async def client(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(models=folder, admin_key=SecretStr("change-me")))
    async with app.router.lifespan_context(app), connected(app) as client:
        yield client


async def told(client: httpx.AsyncClient, rows: int) -> Any:
    for _ in range(200):
        found = (await client.get("/models/pets/shadow")).json()
        if found["comparisons"] and found["comparisons"][0]["rows"] == rows:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(found)


async def test_is_b_better(client: httpx.AsyncClient) -> None:
    body = {"features": ROWS.tolist(), "labels": TRUTH.tolist(), "outputs": ["losses"]}
    alone = (await client.post("/predict", json={**body, "version": "2"})).content
    assert (await client.get("/models/pets/shadow")).json() == {
        "model": "pets",
        "shadow": None,
        "comparisons": [],
    }
    named = await client.put("/admin/models/pets/aliases/shadow", json={"version": "3"}, headers=KEY)
    assert named.status_code == 200, named.text
    for _ in range(3):
        answer = await client.post("/predict", json=body)
        assert answer.headers["x-model-version"] == "2", "the newest that is no shadow"
        assert answer.content == alone
    found = await told(client, 150)
    assert found["shadow"] == "3"
    (pair,) = found["comparisons"]
    assert (pair["version"], pair["shadow"], pair["labelled_rows"]) == ("2", "3", 150)
    low, high = pair["loss_difference_interval_nats"]
    assert 0 < low < pair["loss_difference_nats"] < high, "a class moved that far is worse"
    assert "logitserve_shadow_rows_total" in (await client.get("/metrics")).text
    assert (await client.get("/models/cats/shadow")).status_code == 404
