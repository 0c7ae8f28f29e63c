"""The one currency of the service: what is asked, what is answered, and what a head is.

Every dialect decodes into a `ScoreRequest` and encodes a `ScoreResult`. Both are values with arrays inside, and
therefore not to be compared: two arrays are not equal or unequal. They are named tuples, since a frozen dataclass
takes 2 µs longer to make. A `ScoreRequest` is made by `wire.fields.assemble`, which has checked it: whoever scores
it need not look again.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
IndexArray: TypeAlias = NDArray[np.int64]
FloatType: TypeAlias = np.dtype[np.float32] | np.dtype[np.float64]

Operation: TypeAlias = Literal["softmax", "loss", "predict"]
LabelFormat: TypeAlias = Literal["index", "dense"]
Reduction: TypeAlias = Literal["mean", "sum", "none", "sum_over_batch_size", "mean_with_sample_weight"]

# An output is an array, a number, a list of names of any nesting, or None (the mean of nothing).
Output: TypeAlias = NDArray[np.generic] | float | int | str | list["Output"] | None


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What the logits of a head go through before the softmax: `(scale · logits + bias) / temperature`.

    Parameters
    ----------
    temperature : float
        1 where each class has a scale and a bias of its own.
    scale, bias : float64 array [num_classes], or both None
    """

    temperature: float = 1.0
    scale: NDArray[np.float64] | None = None
    bias: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class HeadInfo:
    """What is known of one loaded version of a head.

    `num_features` and `num_classes` are the lengths of the last axes of features `[…, num_features]` and
    logits `[…, num_classes]`; `dtype` is what the head computes in; `digest` is the sha256 over `model.onnx`
    and the canonical `head.json`; `calibration` is None where logits go to the softmax as they are.
    """

    model: str
    version: str
    num_features: int
    num_classes: int
    dtype: FloatType
    class_names: tuple[str, ...] | None
    digest: str
    provider: str
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Ground truth and how a loss is made of it.

    Parameters
    ----------
    values : int64 array or float array
        Class indices with the shape of the logits without the class axis (`format` "index"), or target
        rows with the shape of the logits, in the request's dtype (`format` "dense").
    class_weight : float array [num_classes] or None
    sample_weight : float array, one per example, or None
    non_finite : "error" or "string"
        What a truly infinite loss gets: an error, or the string "Infinity" in JSON.
    """

    values: IndexArray | FloatArray
    format: LabelFormat
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0
    class_weight: FloatArray | None = None
    sample_weight: FloatArray | None = None
    ignore_index: int | None = None
    non_finite: Literal["error", "string"] = "error"


class ScoreRequest(NamedTuple):
    """One request, decoded and checked.

    Parameters
    ----------
    operation : "softmax", "loss" or "predict"
    values : float array
        Logits with the class axis at `axis`, already rounded to `dtype`; or for "predict" features
        `[…, num_features]` in the head's own dtype.
    axis : int
        The class axis, counted from the front (0 ≤ axis < rank).
    dtype : float32 or float64
        What results are computed for and answered in.
    outputs : tuple of str
        The names to answer, in the order of the answer; nothing else is computed.
    temperature : float
        Logits are divided by it.
    calibration : Calibration or None
        What else they go through: the head's own, unless the request replaces it.
    class_names : tuple of str or None
        Names of all classes, in order: the request's own, or the head's.
    head : HeadInfo or None
        The exact version that "predict" asks for.
    """

    operation: Operation
    values: FloatArray
    axis: int
    dtype: FloatType
    outputs: tuple[str, ...]
    temperature: float = 1.0
    top_k: int | None = None
    class_names: tuple[str, ...] | None = None
    labels: Labels | None = None
    head: HeadInfo | None = None
    top_contributions: int = 10
    calibration: Calibration | None = None


class ScoreResult(NamedTuple):
    """The answer: one value for each name of `ScoreRequest.outputs`, in that order.

    `rows` is the number of examples scored, `batch_rows` how many ran together with them; `seconds_queued` how long they waited.
    `contributions` is answered as the two arrays `contributions.features` (int64) and
    `contributions.values`.
    """

    outputs: dict[str, Output]
    rows: int
    head: HeadInfo | None = None
    batch_rows: int = 0
    seconds_queued: float = 0.0
