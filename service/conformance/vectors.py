"""The golden vectors as questions: what is asked, and the exact answer or the error that must come.

A vector of losses asks for the softmax of its logits too. How a question travels is not known here.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.types import FloatType
from service.wire.nested import NON_FINITE

Operation: TypeAlias = Literal["softmax", "loss"]

# The first family one of whose tags a vector has; what has none of them was published by somebody.
FAMILIES: dict[str, tuple[str, ...]] = {
    "bad input": ("error",),
    "empty batch": ("empty",),
    "means of nothing": ("null",),
    "infinite losses": ("inf",),
    "masked classes": ("mask",),
    "confident rows": ("confident",),
    "subnormal probabilities": ("subnormal",),
    "huge logits": ("large", "offset"),
    "ties": ("tie", "argmax"),
    "weights, smoothing, ignored rows": ("weight", "smoothing", "ignore"),
    "soft labels": ("soft", "unnormalised", "broadcast"),
    "random": ("fuzz",),
    "axes, temperature, one class": ("axis", "temperature", "one-class"),
}
PUBLISHED = "published examples"

# The options that change each output; those of every output of an operation come first.
_CHANGE_ALL: dict[Operation, frozenset[str]] = {
    "softmax": frozenset({"axis", "temperature"}),
    "loss": frozenset(
        {"axis", "temperature", "label_format", "label_smoothing", "class_weight", "sample_weight"}
        | {"ignore_index", "broadcast_labels"}
    ),
}
_CHANGE_ONE = {"loss": "reduction", "top_classes": "top_k", "top_probabilities": "top_k"}
_ARRAY_OPTIONS = ("class_weight", "sample_weight")


class Tolerance(NamedTuple):
    """How far from the exact value an answer may be: both by size and in units in the last place.

    Within `common_rtol` and `common_atol` are the common libraries.
    """

    rtol: float
    atol: float
    rtol_reduced: float
    max_ulp: float
    common_rtol: float
    common_atol: float


class Question(NamedTuple):
    """What one request asks.

    `logits` are rounded to `dtype`; `labels` are int64 indices, or rows in that type. `expected` has the exact
    value of each output, where None is the mean of nothing; or `refusal` is the code of the error.
    """

    vector: str
    family: str
    operation: Operation
    dtype: FloatType
    logits: NDArray[Any]
    labels: NDArray[Any] | None
    options: dict[str, Any]
    expected: dict[str, NDArray[Any] | None]
    refusal: str
    tolerance: Tolerance

    def options_of(self, output: str) -> frozenset[str]:
        """Name the options that the value of an output depends on; of a refusal, all."""
        # The mean is what everybody takes unasked.
        said = frozenset(
            name for name, value in self.options.items() if (name, value) != ("reduction", "mean")
        )
        if self.refusal:
            return said
        return said & (_CHANGE_ALL[self.operation] | {_CHANGE_ONE.get(output, "")})

    @property
    def may_be_refused(self) -> bool:
        """Whether an error is as right as the value: of an infinite loss, unless `non_finite` asks for it."""
        losses = self.expected.get("losses")
        return losses is not None and bool(np.isinf(losses).any())

    @property
    def has_index_labels(self) -> bool:
        if self.labels is None:
            return False
        return self.labels.ndim != self.logits.ndim or self.options.get("label_format") == "index"


@cache
def read() -> tuple[Question, ...]:
    """Read every question that the package carries."""
    text = files(__package__).joinpath("vectors.jsonl").read_text(encoding="utf-8")
    vectors = [json.loads(line) for line in text.splitlines()]
    return tuple(question for vector in vectors for question in _questions(vector))


def array(values: Any, shape: Sequence[int] | None = None) -> NDArray[Any]:
    """Read numbers in which infinities are spelt as strings; integers stay integers.

    Raises
    ------
    ValueError
        Something is no number, or the nesting is uneven.
    """
    spelt = np.array(values, dtype=object)
    numbers = [NON_FINITE.get(value, value) if type(value) is str else value for value in spelt.flat]
    kinds = set(map(type, numbers))
    # numpy would make a NaN of null, and numbers of text.
    if not kinds <= {int, float}:
        raise ValueError("expected numbers")
    read = np.array(numbers, np.int64 if kinds <= {int} else np.float64)
    return read.reshape(spelt.shape if shape is None else shape)


def family_of(tags: Sequence[str]) -> str:
    return next((family for family, known in FAMILIES.items() if set(known) & set(tags)), PUBLISHED)


def _questions(vector: Mapping[str, Any]) -> Iterator[Question]:
    dtype: FloatType = np.dtype(vector["dtype"])
    operation: Operation = "softmax" if vector["op"] == "softmax" else "loss"
    logits = array(vector["logits"], vector.get("shape")).astype(dtype)
    options = {
        name: array(value).astype(np.float64) if name in _ARRAY_OPTIONS else value
        for name, value in vector["options"].items()
    }
    expected = vector["expected"]
    asked = Question(
        vector=vector["name"],
        family=family_of(vector["tags"]),
        operation=operation,
        dtype=dtype,
        logits=logits,
        labels=_labels(vector, logits) if "labels" in vector else None,
        options=options,
        expected={},
        refusal=expected.get("error", ""),
        tolerance=tolerance_of(vector),
    )
    if asked.refusal:
        yield asked
        return
    of_softmax = {name: value for name, value in options.items() if name in {"axis", "temperature", "top_k"}}
    yield asked._replace(
        operation="softmax", labels=None, options=of_softmax, expected=_softmax_expected(expected)
    )
    if operation == "loss":
        yield asked._replace(expected=_loss_expected(expected, vector["options"].get("reduction")))


def tolerance_of(vector: Mapping[str, Any]) -> Tolerance:
    common = {f"common_{name}": value for name, value in vector.get("baseline_tolerance", {}).items()}
    # What must be refused has no value to be far from.
    return Tolerance(**vector["tolerance"], **common) if common else Tolerance(*[0.0] * 6)


def _labels(vector: Mapping[str, Any], logits: NDArray[Any]) -> NDArray[Any]:
    labels = array(vector["labels"], vector.get("labels_shape"))
    is_index = labels.ndim < logits.ndim or vector["options"].get("label_format") == "index"
    return labels if is_index else labels.astype(logits.dtype)


def _softmax_expected(expected: Mapping[str, Any]) -> dict[str, NDArray[Any] | None]:
    shape = expected["shape"]
    answers: dict[str, NDArray[Any] | None] = {
        "probabilities": array(expected["probabilities"], shape).astype(np.float64),
        "classes": array(expected["classes"]),
    }
    if "log_probabilities" in expected:
        answers["log_probabilities"] = array(expected["log_probabilities"], shape).astype(np.float64)
    if "top_k" in expected:
        answers["top_classes"] = array(expected["top_k"]["indices"])
        answers["top_probabilities"] = array(expected["top_k"]["probabilities"]).astype(np.float64)
    return answers


def _loss_expected(expected: Mapping[str, Any], reduction: str | None) -> dict[str, NDArray[Any] | None]:
    answers: dict[str, NDArray[Any] | None] = {
        "losses": array(expected["loss"]).astype(np.float64),
        "count": array(expected["count"]),
    }
    if reduction != "none":
        reduced = expected["reduced"]
        answers["loss"] = None if reduced is None else array(reduced).astype(np.float64)
    return answers
