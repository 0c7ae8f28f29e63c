"""Every golden vector, computed in process and held to its contract tolerance and its ulp bound."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.conformance.judge import compare
from service.conformance.vectors import array, tolerance_of
from service.errors import Invalid
from service.numeric import checks
from service.numeric.losses import Losses, cross_entropy
from service.numeric.softmax import log_softmax, normalise, softmax, top_k

GOLDEN = Path(__file__).parent.parent / "golden" / "vectors.jsonl"
VECTORS: list[dict[str, Any]] = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
GOOD = [vector for vector in VECTORS if "error" not in vector["expected"]]
BAD = [vector for vector in VECTORS if "error" in vector["expected"]]

ARRAY_OPTIONS = ("class_weight", "sample_weight")


def names(vectors: list[dict[str, Any]]) -> list[str]:
    return [str(vector["name"]) for vector in vectors]


def logits_of(vector: dict[str, Any]) -> NDArray[Any]:
    logits = array(vector["logits"], vector.get("shape")).astype(np.float64)
    return checks.round_to(logits, np.dtype(vector["dtype"]), path="logits")


def run(vector: dict[str, Any]) -> Losses:
    options = dict(vector["options"])
    for name in ARRAY_OPTIONS:
        if name in options:
            options[name] = array(options[name])
    labels = array(vector["labels"], vector.get("labels_shape"))
    return cross_entropy(logits_of(vector), labels, **options)


def softmax_options(vector: dict[str, Any]) -> dict[str, Any]:
    return {name: vector["options"][name] for name in ("axis", "temperature") if name in vector["options"]}


def assert_close(output: str, found: NDArray[Any], expected: Any, vector: dict[str, Any]) -> None:
    exact = array(expected).astype(np.float64)
    if not exact.size:  # nesting cannot say the shape of nothing
        exact = exact.reshape(found.shape)
    assert found.shape == exact.shape
    verdict = compare(output, found, exact, np.dtype(vector["dtype"]), tolerance_of(vector))
    assert verdict.held, verdict.instead


def test_there_are_67_vectors() -> None:
    assert (len(GOOD), len(BAD)) == (56, 11)


@pytest.mark.parametrize("vector", GOOD, ids=names(GOOD))
def test_probabilities_and_classes_of_a_golden_vector(vector: dict[str, Any]) -> None:
    logits, expected = logits_of(vector), vector["expected"]
    probabilities = softmax(logits, **softmax_options(vector))
    assert list(probabilities.shape) == expected["shape"]
    assert_close("probabilities", probabilities, expected["probabilities"], vector)
    axis = vector["options"].get("axis", -1)
    classes = normalise(logits, axis).classes
    assert np.array_equal(classes.reshape(-1), array(expected["classes"]).reshape(-1))
    if "log_probabilities" in expected:
        logarithms = log_softmax(logits, **softmax_options(vector))
        assert_close("log_probabilities", logarithms, expected["log_probabilities"], vector)
    if "top_k" in expected:
        best = top_k(logits, vector["options"]["top_k"], axis)
        assert np.array_equal(best, expected["top_k"]["indices"])
        found = np.take_along_axis(probabilities, best, axis)
        assert_close("top_probabilities", found, expected["top_k"]["probabilities"], vector)
    if "published" in vector and vector["op"] == "softmax":
        published = vector["published"]
        assert np.allclose(probabilities, array(published["value"]), published["rtol"], published["atol"])


CROSS_ENTROPY = [vector for vector in GOOD if vector["op"] == "cross_entropy"]


@pytest.mark.parametrize("vector", CROSS_ENTROPY, ids=names(CROSS_ENTROPY))
def test_losses_of_a_golden_vector(vector: dict[str, Any]) -> None:
    found, expected = run(vector), vector["expected"]
    assert found.losses.dtype == vector["dtype"]
    assert_close("losses", found.losses, expected["loss"], vector)
    assert found.count == expected["count"]
    if expected["reduced"] is None:
        assert found.loss is None
    else:
        assert found.loss is not None
        assert_close("loss", np.array(found.loss), expected["reduced"], vector)
    if "published" in vector:
        published = vector["published"]
        value = found.losses if found.loss is None else np.array(found.loss)
        assert np.allclose(value, array(published["value"]), published["rtol"], published["atol"])


@pytest.mark.parametrize("vector", BAD, ids=names(BAD))
def test_refusal_of_a_golden_vector(vector: dict[str, Any]) -> None:
    def answer() -> object:
        return (
            softmax(logits_of(vector), **softmax_options(vector))
            if vector["op"] == "softmax"
            else run(vector)
        )

    with pytest.raises(Invalid) as caught:
        answer()
    assert (caught.value.code, caught.value.status) == (
        vector["expected"]["error"],
        vector["expected"]["status"],
    )
    assert caught.value.offences[0].path
