"""The heads that ship: good, honestly described, and the same bytes wherever they are made."""

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import MODELS, load_script
from sklearn.linear_model import LogisticRegression

from service.heads.description import digest_of, parse
from service.heads.graphs import Linear, read_linear
from service.heads.handle import Head
from service.heads.repository import Repository

DIGITS = MODELS / "digits" / "1"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    return load_script(MODELS / "build.py")


@pytest.fixture(scope="module")
def digits(build: ModuleType) -> Any:
    return build.read_digits()


@pytest.fixture(scope="module")
def fitted(build: ModuleType, digits: Any) -> Any:
    """Weights for raw pixels and biases, before they are rounded."""
    return build.fit(digits.pixels[~digits.held_out], digits.labels[~digits.held_out])


@pytest.fixture(scope="module")
def shipped() -> Linear:
    model = (DIGITS / "model.onnx").read_bytes()
    linear = read_linear(model, input_name="features", output_name="logits")
    assert linear is not None
    return linear


@pytest.fixture(scope="module")
def head() -> Head:
    repository = Repository(MODELS, provider="cpu")
    repository.load()
    return repository.head(repository.info("digits", "1"))


def loss_of(logits: Any, labels: Any) -> float:
    """The mean cross-entropy, by another formula than the script's."""
    exact = np.asarray(logits, np.longdouble)
    total = np.logaddexp.reduce(exact, axis=1)
    return float((total - exact[np.arange(len(labels)), labels]).mean())


# What ships


def test_the_shipped_head_is_served(head: Head) -> None:
    info = head.info
    assert (info.model, info.version) == ("digits", "1")
    assert (info.num_features, info.num_classes) == (64, 10)
    assert info.dtype == np.float32
    assert info.class_names == (
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
    )


@pytest.mark.parametrize("part", ["held out", "all"])
def test_the_served_head_is_right_more_than_95_times_in_100(head: Head, digits: Any, part: str) -> None:
    rows = digits.held_out if part == "held out" else np.ones(1797, np.bool_)
    classes = head.run(digits.pixels[rows].astype(np.float32)).argmax(axis=1)
    assert (classes == digits.labels[rows]).mean() > 0.95


def test_the_metrics_are_those_of_the_served_file_on_the_held_out_part(head: Head, digits: Any) -> None:
    pixels, labels = digits.pixels[digits.held_out], digits.labels[digits.held_out]
    logits = head.run(pixels.astype(np.float32))
    assert head.description.metrics == {
        "held_out_rows": len(labels),
        "held_out_accuracy": round(float((logits.argmax(axis=1) == labels).mean()), 6),
        "held_out_loss": pytest.approx(loss_of(logits, labels), abs=5.1e-7),
    }


def test_the_digest_belongs_to_the_files() -> None:
    text = (DIGITS / "head.json").read_bytes()
    assert parse(text).digest == digest_of((DIGITS / "model.onnx").read_bytes(), text)


def test_the_golden_rows_are_a_recognised_held_out_image_of_each_class(head: Head, digits: Any) -> None:
    golden = head.description.golden
    assert golden is not None
    images = [row.tolist() for row in digits.pixels[digits.held_out]]
    labels = digits.labels[digits.held_out]
    assert [labels[images.index(list(row))] for row in golden.features] == list(range(10))
    assert np.argmax(golden.logits, axis=1).tolist() == list(range(10))


def test_the_examples_are_held_out_images_four_a_class(head: Head, digits: Any) -> None:
    examples = head.description.examples
    assert examples is not None
    assert examples.labels == tuple(label for label in range(10) for _ in range(4))
    held_out = [tuple(row.tolist()) for row in digits.pixels[digits.held_out]]
    labels = digits.labels[digits.held_out]
    assert len(set(examples.features)) == 40
    for features, label in zip(examples.features, examples.labels, strict=True):
        assert labels[held_out.index(features)] == label


def test_the_examples_run_from_the_clearest_image_of_a_class_to_the_one_that_is_most_mistaken(
    head: Head, digits: Any
) -> None:
    examples = head.description.examples
    assert examples is not None

    def margins(rows: Any, label: int) -> Any:
        logits = head.run(np.asarray(rows, np.float32))
        return logits[:, label] - np.delete(logits, label, axis=1).max(axis=1)

    for label in range(10):
        every = margins(digits.pixels[digits.held_out & (digits.labels == label)], label)
        chosen = margins(examples.features[4 * label : 4 * label + 4], label)
        assert (chosen[0], chosen[-1]) == (every.max(), every.min())
        assert (np.diff(chosen) < 0).all()
    classes = head.run(np.asarray(examples.features, np.float32)).argmax(axis=1)
    assert (classes != examples.labels).sum() == 6, "as models/README.md says"


def test_the_features_are_said_to_be_an_image(head: Head, digits: Any) -> None:
    image = head.description.image
    assert image is not None
    assert (image.height, image.width, image.largest) == (8, 8, digits.pixels.max())


def test_every_weight_is_a_multiple_of_a_step_so_that_logits_are_exact(shipped: Linear) -> None:
    for values in shipped:
        steps = values.astype(np.float64) * 4096
        np.testing.assert_array_equal(steps, np.round(steps))
    # The largest sum of 24-bit multiples of 2^-12 that float32 holds exactly is 2^12.
    largest = 16 * np.abs(shipped.weights).sum(axis=0) + np.abs(shipped.bias)
    assert largest.max() < 2**12


def test_head_json_says_where_the_head_comes_from(head: Head) -> None:
    assert set(head.description.source) == {"data", "licence", "method", "held_out"}
    assert "CC BY 4.0" in head.description.source["licence"]


def test_head_json_has_one_row_a_line() -> None:
    text = (DIGITS / "head.json").read_text(encoding="utf-8")
    golden = json.loads(text)["golden"]
    rows = [*golden["features"], *golden["logits"], *json.loads(text)["examples"]["features"]]
    lines = {line.strip().rstrip(",") for line in text.splitlines()}
    assert {json.dumps(row) for row in rows} <= lines
    assert len(text.splitlines()) < 110


# How it is made


def test_a_fifth_of_every_class_is_held_out(digits: Any) -> None:
    assert digits.pixels.shape == (1797, 64)
    for label in range(10):
        of_class = digits.labels == label
        assert digits.held_out[of_class].sum() == of_class.sum() // 5


def test_the_fit_is_where_the_gradient_vanishes(build: ModuleType, digits: Any, fitted: Any) -> None:
    inputs = digits.pixels[~digits.held_out] / 16
    labels = digits.labels[~digits.held_out]
    weights, bias = fitted[0] * 16, fitted[1]
    logits = inputs @ weights + bias
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
    residuals = probabilities - np.eye(10)[labels]
    assert np.abs(inputs.T @ residuals + build.RIDGE * weights).max() < 1e-11
    assert np.abs(residuals.sum(axis=0) + build.RIDGE * bias).max() < 1e-11


def test_scikit_learn_finds_the_same_head(build: ModuleType, digits: Any, fitted: Any) -> None:
    inputs = np.column_stack([digits.pixels / 16, np.ones(1797)])[~digits.held_out]
    other = LogisticRegression(C=1 / build.RIDGE, fit_intercept=False, tol=1e-7, max_iter=5000)
    other.fit(inputs, digits.labels[~digits.held_out])
    np.testing.assert_allclose(other.coef_[:, :-1].T / 16, fitted[0], atol=1e-5)
    np.testing.assert_allclose(other.coef_[:, -1], fitted[1], atol=1e-4)


def test_no_weight_lies_so_near_a_rounding_edge_that_a_cpu_could_tip_it(fitted: Any, shipped: Linear) -> None:
    for values, rounded in zip(fitted, shipped, strict=True):
        steps = values * 4096
        # Half a step is an edge; the fit is good to some 1e-10 of a step.
        assert np.abs(steps - np.floor(steps) - 0.5).min() > 1e-5
        np.testing.assert_array_equal(np.round(steps) / 4096, rounded)


def test_building_writes_the_bytes_that_ship(
    build: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main(["--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'digits' / '1'}\n"
    for name in ("model.onnx", "head.json"):
        assert (tmp_path / "digits" / "1" / name).read_bytes() == (DIGITS / name).read_bytes()


# That other CPUs do make the bytes that ship takes a rebuild for each: `make models-check` shows it.
def test_the_check_fails_where_one_bit_differs(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "OTHER_CPUS", build.OTHER_CPUS[:1])
    shutil.copytree(DIGITS, tmp_path / "digits" / "1")
    model = bytearray((DIGITS / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (tmp_path / "digits" / "1" / "model.onnx").write_bytes(model)
    assert build.main(["--check", "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "DIFFERS  digits/1/model.onnx" in told
    assert "same  digits/1/head.json" in told
