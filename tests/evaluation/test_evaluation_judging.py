"""Judging: heads over their features and scores of logits, the same whatever the blocks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import Invalid, ModelError, StartError
from service.evaluation import judging
from service.evaluation.judging import judge, logits_as_they_are, logits_of, open_version
from service.heads.graphs import Linear, build_linear
from service.heads.handle import Head
from service.heads.storage import Folder
from service.heads.writing import write_version
from service.numeric.softmax import softmax
from service.types import Calibration

WEIGHTS = np.array([[1, -2, 0.5], [0.25, 1, -1]], np.float32)
MODEL = build_linear(Linear(WEIGHTS, np.zeros(3, np.float32)))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for _ in range(2):
        write_version(tmp_path, "pets", MODEL, {})
    write_version(tmp_path, "plants", MODEL, {})
    return tmp_path


@pytest.fixture
def head(models: Path) -> Head:
    return open_version(Folder(models), "pets", None, provider="cpu").head


def made_up(rows: int = 100) -> tuple[NDArray[Any], NDArray[Any]]:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(rows, 3))
    return logits, (logits + generator.normal(size=logits.shape)).argmax(axis=1)


def test_the_newest_version_is_opened_unless_another_is_named(models: Path) -> None:
    assert open_version(Folder(models), "pets", None, provider="cpu").stored.version == 2
    opened = open_version(Folder(models), "pets", 1, provider="cpu")
    assert (opened.head.info.version, opened.files.model) == ("1", MODEL)


@pytest.mark.parametrize(
    ("model", "version", "said"),
    [
        (None, None, "which model\\? name one with --model: pets, plants"),
        ("stones", None, "no model 'stones': there are pets, plants"),
        ("pets", 3, "no version 3 of pets: there are 1, 2"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    models: Path, model: str | None, version: int | None, said: str
) -> None:
    with pytest.raises(StartError, match=said):
        open_version(Folder(models), model, version, provider="cpu")


def test_the_only_model_needs_no_name(tmp_path: Path) -> None:
    write_version(tmp_path, "pets", MODEL, {})
    assert open_version(Folder(tmp_path), None, None, provider="cpu").stored.model == "pets"


def test_a_broken_version_is_told(models: Path) -> None:
    (models / "pets" / "2" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError):
        open_version(Folder(models), "pets", 2, provider="cpu")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int32])
def test_features_of_any_type_are_run_in_blocks(
    head: Head, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = (np.arange(14).reshape(7, 2) - 5).astype(dtype)
    monkeypatch.setattr(judging, "BLOCK_ELEMENTS", 6)
    done: list[int] = []
    logits = logits_of(head, features, done.append)
    np.testing.assert_allclose(logits, features.astype(np.float32) @ WEIGHTS, rtol=1e-6)
    assert logits.dtype == np.float32
    assert done == [2, 4, 6, 7]


@pytest.mark.parametrize(
    ("value", "code", "path"),
    [
        (np.nan, "non_finite_features", "features[5][1]"),
        (1e39, "float32_overflow", "features[5][1]"),
        (3e38, "non_finite_logits", "features[5]"),
    ],
)
def test_a_row_that_cannot_be_run_is_named(
    head: Head, value: float, code: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = np.zeros((7, 2))
    features[5] = (0, value) if code != "non_finite_logits" else (value, value)
    monkeypatch.setattr(judging, "BLOCK_ELEMENTS", 6)
    with pytest.raises(Invalid) as caught:
        logits_of(head, features)
    assert (caught.value.code, caught.value.offences[0].path) == (code, path)


def test_another_number_of_features_is_refused(head: Head) -> None:
    with pytest.raises(Invalid, match="expected 2 features, got 3"):
        logits_of(head, np.zeros((1, 3)))


def test_logits_keep_their_type_or_are_widened() -> None:
    for given, kept in (("f4", "f4"), ("f8", "f8"), ("f2", "f4"), ("i8", "f8")):
        logits = np.array([[1, 2], [3, 4]], given)
        checked = logits_as_they_are(logits)
        assert checked.dtype == kept
        np.testing.assert_array_equal(checked, logits)


def test_logits_without_a_softmax_are_refused_with_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "BLOCK_ELEMENTS", 4)
    logits = np.zeros((9, 2))
    logits[7, 1] = np.nan
    with pytest.raises(Invalid) as caught:
        logits_as_they_are(logits)
    assert caught.value.offences[0].path == "logits[7][1]"


def test_blocks_make_no_difference_to_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = made_up()
    chosen = np.arange(len(labels)) % 3 == 0
    calibration = Calibration(1.0, np.array([2.0, 1, 0.5]), np.array([0.0, 1, -1]))
    whole = judge(logits, labels, calibration, chosen=chosen)
    monkeypatch.setattr(judging, "BLOCK_ELEMENTS", 3)
    done: list[int] = []
    parts = judge(logits, labels, calibration, chosen=chosen, watch=done.append)
    assert parts.rows == whole.rows == np.count_nonzero(chosen)
    assert parts.log_loss == pytest.approx(whole.log_loss, rel=1e-13)
    assert parts.ece_classwise == pytest.approx(whole.ece_classwise, rel=1e-12)
    assert done == list(range(1, 101))


def test_scores_are_of_the_calibrated_logits() -> None:
    logits, labels = made_up()
    by_temperature = judge(logits, labels, Calibration(2.0))
    expected = -np.log(softmax(logits, temperature=2.0)[np.arange(100), labels]).mean()
    assert by_temperature.log_loss == pytest.approx(expected, rel=1e-13)
    scale, bias = np.array([2.0, 1, 0.5]), np.array([0.0, 1, -1])
    by_vector = judge(logits, labels, Calibration(1.0, scale, bias))
    expected = -np.log(softmax(logits * scale + bias)[np.arange(100), labels]).mean()
    assert by_vector.log_loss == pytest.approx(expected, rel=1e-13)
    assert by_vector.accuracy == ((logits * scale + bias).argmax(axis=1) == labels).mean()


def test_float32_logits_are_judged_in_float64() -> None:
    logits, labels = made_up()
    narrow = logits.astype(np.float32)
    assert judge(narrow, labels).log_loss == judge(narrow.astype(np.float64), labels).log_loss


def test_a_masked_label_has_no_score() -> None:
    with pytest.raises(Invalid) as caught:
        judge(np.array([[0.0, -np.inf]]), np.array([1]))
    assert caught.value.code == "infinite_loss"
