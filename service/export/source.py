"""What every source gives: a head, and the source's own answers to hold that head against.

Knows arrays, names and files; knows no library of any source, and nothing of where a head is written.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.errors import LogitserveError
from service.heads.graphs import Linear
from service.numeric.softmax import softmax
from service.types import FloatArray, FloatType, IndexArray

Float64Array: TypeAlias = NDArray[np.float64]

FLOAT32: FloatType = np.dtype(np.float32)
FLOAT64: FloatType = np.dtype(np.float64)

# One protocol buffer, which model.onnx is, holds at most 2 GiB; the rest of it takes far less than this.
WEIGHTS_LIMIT_BYTES = 2**31 - 2**20
# What a model says of its layers and classes.
CONFIG_LIMIT_BYTES = 16 * 2**20
# Names in a message beyond these say no more.
MAX_NAMES = 8
MAX_NAME = 80
READ_BYTES = 2**20


class ExportError(LogitserveError):
    """A source cannot become a head; the text says where, what was expected and what is there, in one line."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the source is asked for; None where it shall find out itself.

    Parameters
    ----------
    weight, bias : str or None
        Names of arrays.
    transpose : bool or None
        Whether the weights lie as [num_classes, num_features].
    layer : str or None
        Name of a Keras layer.
    output : str or None
        Name of an ONNX output.
    as_scores : bool
        Whether scores whose softmax is nobody's probability are welcome.
    trust_pickle : bool
        Whether code in the file may run.
    """

    weight: str | None = None
    bias: str | None = None
    transpose: bool | None = None
    layer: str | None = None
    output: str | None = None
    as_scores: bool = False
    trust_pickle: bool = False


class Answers(NamedTuple):
    """What the source itself says of rows: logits and probabilities [rows, num_classes], classes [rows]."""

    logits: Float64Array | None
    probabilities: Float64Array | None
    classes: IndexArray


class Graph(NamedTuple):
    """A head that came as a graph: an ONNX model whose output is logits [rows, num_classes].

    `run` gives these logits of rows, in the type of the graph: there are no weights to compute golden ones from.
    """

    model: bytes
    input_name: str
    output_name: str
    num_features: int
    num_classes: int
    run: Callable[[Float64Array], FloatArray]


# So many features are those of texts, of which a row has few, counted or weighed and so not below 0. Were all of them
# drawn, logits would be small differences of large sums, as they never are in use, and no float32 would hold them.
WIDE_FEATURES = 4096
ENTRIES_OF_WIDE_ROW = 64
# Drawn rows take 64 MB at most.
MOST_DRAWN = 1 << 23


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Where the features of a source lie: rows for tests are drawn there.

    Parameters
    ----------
    center, spread : float64 array [num_features], or one number for all
        Mean and standard deviation of the normal distribution that is drawn from.
    lowest : float
        What is drawn below it is set to it.
    integers : bool
        Whether features are whole numbers.
    """

    center: Float64Array | float = 0.0
    spread: Float64Array | float = 1.0
    lowest: float = -np.inf
    integers: bool = False

    def draw(self, rows: int, num_features: int) -> Float64Array:
        """Draw the same rows every time, each number exact in float32: [rows, num_features], or fewer rows if wide."""
        rows = min(rows, max(1, MOST_DRAWN // num_features))
        random = np.random.default_rng(0)
        normal = random.standard_normal((rows, num_features))
        drawn = np.maximum(self.center + self.spread * normal, self.lowest)
        if self.integers:
            return np.floor(drawn)
        if num_features > WIDE_FEATURES and np.ndim(self.center) == 0:  # nothing says where the features lie
            drawn = np.abs(drawn) * (random.random(drawn.shape) < ENTRIES_OF_WIDE_ROW / num_features)
        return drawn.astype(np.float32).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a reader found.

    Parameters
    ----------
    format : str
    head : Linear or Graph
        Weights [num_features, num_classes] and bias in float64, before they are rounded to the head's type.
    dtype : float32 or float64
        What the source computes in, and the head by default.
    answer : function of float64 rows [rows, num_features]
        The source's own answers.
    file : Path or None
        Where the weights were; None for an object in memory.
    notes : tuple of str
        What was chosen or left out on the way, for the person who exports and for head.json.
    calibrated : bool
        Whether the softmax of the logits is what the source calls probabilities.
    """

    format: str
    head: Linear | Graph
    dtype: FloatType
    answer: Callable[[Float64Array], Answers]
    file: Path | None = None
    class_names: tuple[str, ...] | None = None
    region: Region = field(default_factory=Region)
    notes: tuple[str, ...] = ()
    calibrated: bool = True

    @property
    def num_features(self) -> int:
        return self.head.num_features if isinstance(self.head, Graph) else len(self.head.weights)

    @property
    def num_classes(self) -> int:
        return self.head.num_classes if isinstance(self.head, Graph) else len(self.head.bias)


def answer_linearly(linear: Linear) -> Callable[[Float64Array], Answers]:
    """What weights from a file say of rows: they are no program of their own, so float64 arithmetic does."""

    def answer(rows: Float64Array) -> Answers:
        logits = rows @ linear.weights.astype(np.float64) + linear.bias
        return Answers(logits, softmax(logits).astype(np.float64), logits.argmax(axis=1))

    return answer


def of_two_classes(linear: Linear) -> Linear:
    """Give the one score z of a binary model the columns [0, z]: their softmax is the sigmoid of z."""
    weights, bias = (array.astype(np.float64) for array in linear)
    columns = np.hstack([np.zeros_like(weights), weights])
    return Linear(columns, np.concatenate([np.zeros_like(bias), bias]))


def rounded_to(array: FloatArray, dtype: FloatType) -> FloatArray:
    """Round to float32 or float64; what is too large for float32 becomes infinite."""
    if dtype == FLOAT64:
        return array.astype(np.float64)
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def check_finite(array: FloatArray, name: str) -> None:
    if not np.isfinite(array).all():
        place = "".join(f"[{index}]" for index in np.argwhere(~np.isfinite(array))[0])
        raise ExportError(f"{name}{place}: expected a finite number, got {array[~np.isfinite(array)][0]}")


def check_size(size_bytes: int, name: str) -> None:
    """Refuse what no model.onnx could hold, before memory is taken for it."""
    if size_bytes > WEIGHTS_LIMIT_BYTES:
        raise ExportError(f"{name}: expected at most {WEIGHTS_LIMIT_BYTES} bytes, got {size_bytes}")


def not_installed(library: str, *, package: str, what: str) -> ExportError:
    return ExportError(f"{what} needs {library}: pip install {package}")


def read_bounded(path: Path, limit_bytes: int = WEIGHTS_LIMIT_BYTES) -> bytes:
    """Read a file whole, unless it is longer than allowed."""
    try:
        with path.open("rb") as file:
            text = file.read(limit_bytes + 1)
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from error
    if len(text) > limit_bytes:
        raise ExportError(f"{path}: expected at most {limit_bytes} bytes, got more")
    return text


def read_json(text: bytes, where: Path | str) -> dict[str, Any]:
    """Read a JSON object in which no key stands twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice")
        return found

    try:
        value = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{where}: expected a JSON object: {str(error)[:80]}") from error
    if not isinstance(value, dict):
        raise ExportError(f"{where}: expected a JSON object, got another value")
    return value


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def listed(names: list[str]) -> str:
    """Names for a message: the first few, each of bounded length."""
    shown = ", ".join(name[:MAX_NAME] for name in names[:MAX_NAMES])
    return (shown or "none") + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
