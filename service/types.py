"""The one currency of the service: what is asked, what is answered, and what a head is.

Every dialect decodes into a `ScoreRequest` and encodes a `ScoreResult`. Both are values with arrays inside, and
therefore not to be compared: two arrays are not equal or unequal. They are named tuples, since a frozen dataclass
takes 2 µs longer to make. A `ScoreRequest` is made by `wire.fields.assemble`, which has checked it: whoever scores
it need not look again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
IndexArray: TypeAlias = NDArray[np.int64]
FloatType: TypeAlias = np.dtype[np.float32] | np.dtype[np.float64]

Operation: TypeAlias = Literal["softmax", "loss", "predict"]
LabelFormat: TypeAlias = Literal["index", "dense"]
Reduction: TypeAlias = Literal["mean", "sum", "none", "sum_over_batch_size", "mean_with_sample_weight"]

# Names of rows for later, one after the other; True asks for some to be made.
RowIds: TypeAlias = Literal[True] | tuple[str, ...]

# An output is an array, a number, a list of names of any nesting, or None (the mean of nothing).
Output: TypeAlias = NDArray[np.generic] | float | int | str | list["Output"] | None


class Abstention(NamedTuple):
    """When to leave a row to somebody else; what is None is no reason.

    Parameters
    ----------
    below : float or None
        Where the probability of the class is less.
    margin : float or None
        Where it is less than so much above that of the next best.
    entropy_above : float or None
        Where the entropy of the row, in nats, is more.
    cost : float or None
        Where the expected cost is more, which is what asking costs.
    """

    below: float | None = None
    margin: float | None = None
    entropy_above: float | None = None
    cost: float | None = None


class Decision(NamedTuple):
    """What a decision goes by, for C classes; what is None is not looked at.

    Parameters
    ----------
    masked : bool array [C] or None
        Classes that are never decided on; their probability goes to the others in proportion.
    prior_ratio : float64 array [C] or None
        Of each class, its share where the head is used over its share where it was fitted; positive.
    costs : float64 array [C, C] or None
        What it costs to decide on the class of a column where that of a row is true.
    thresholds : float64 array [C] or None
        The least probability with which each class is decided on.
    abstention : Abstention
    """

    masked: NDArray[np.bool_] | None = None
    prior_ratio: NDArray[np.float64] | None = None
    costs: NDArray[np.float64] | None = None
    thresholds: NDArray[np.float64] | None = None
    abstention: Abstention = Abstention()


@dataclass(frozen=True, slots=True, eq=False)
class SparseRows:
    """Rows of features that are mostly 0: compressed sparse rows (CSR), as scipy's `csr_array` lays them out.

    Parameters
    ----------
    indptr : int64 array [rows + 1]
        Row i has the entries indptr[i] up to indptr[i + 1]; the first is 0, and none is less than the one before.
    indices : int64 array [entries]
        The feature of each entry: 0 ≤ index < num_features, ascending within a row, none twice.
    data : float array [entries]
        Its value, in the head's own dtype; all other features are 0.
    num_features : int
    """

    indptr: IndexArray
    indices: IndexArray
    data: FloatArray
    num_features: int

    ndim: ClassVar[int] = 2

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.indptr) - 1, self.num_features

    @property
    def size(self) -> int:
        """How many numbers there are to compute with."""
        return self.data.size

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, rows: slice) -> "SparseRows":
        """Take rows that lie together, without a copy of their entries."""
        start, stop, _ = rows.indices(len(self))
        indptr = self.indptr[start : max(start, stop) + 1]
        entries = slice(indptr[0], indptr[-1])
        return SparseRows(indptr - indptr[0], self.indices[entries], self.data[entries], self.num_features)

    @staticmethod
    def stack(parts: "Sequence[SparseRows]") -> "SparseRows":
        """Put rows of one head below each other."""
        indptrs, entries = [np.zeros(1, np.int64)], 0
        for part in parts:
            indptrs.append(part.indptr[1:] + entries)
            entries += part.size
        return SparseRows(
            np.concatenate(indptrs),
            np.concatenate([part.indices for part in parts]),
            np.concatenate([part.data for part in parts]),
            parts[0].num_features,
        )

    def to_dense(self) -> FloatArray:
        """Write all features out, zeros too: rows * num_features numbers."""
        dense = np.zeros(self.shape, self.data.dtype)
        dense[np.repeat(np.arange(len(self)), np.diff(self.indptr)), self.indices] = self.data
        return dense


# What a head is asked about: [..., num_features], whichever way it is laid out.
Features: TypeAlias = FloatArray | SparseRows


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
    and the canonical `head.json`. `decision` is what its `head.json` says of decisions; `calibration` is None
    where logits go to the softmax as they are; `reference` is the traffic that it was made for, as
    `numeric.quality.observed` counts it.
    """

    model: str
    version: str
    num_features: int
    num_classes: int
    dtype: FloatType
    class_names: tuple[str, ...] | None
    digest: str
    provider: str
    decision: Decision | None = field(default=None, compare=False)  # arrays have no equality of one word
    calibration: Calibration | None = field(default=None, compare=False)
    reference: NDArray[np.float64] | None = field(default=None, compare=False)


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
    values : float array or SparseRows
        Logits with the class axis at `axis`, already rounded to `dtype`; or for "predict" features
        `[…, num_features]` in the head's own dtype, dense or sparse.
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
    decision : Decision or None
        What decisions go by: the request's own rules, or the head's.
    row_ids : True, tuple of str or None
        By which the rows are to be found again when their labels come.
    judged : bool
        Whether its labels say how good a head is, or only what somebody tries.
    """

    operation: Operation
    values: Features
    axis: int
    dtype: FloatType
    outputs: tuple[str, ...]
    temperature: float = 1.0
    top_k: int | None = None
    class_names: tuple[str, ...] | None = None
    labels: Labels | None = None
    head: HeadInfo | None = None
    top_contributions: int = 10
    decision: Decision | None = None
    calibration: Calibration | None = None
    row_ids: RowIds | None = None
    judged: bool = True

    @property
    def dense(self) -> FloatArray:
        """The values where they are no `SparseRows`, as logits never are."""
        return cast("FloatArray", self.values)


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
