"""One version: opened, warmed up and self-tested into an immutable handle.

Knows what a version's head.json promises and how it is held to it; knows no other version, no request, no label
and no HTTP.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid, ModelError
from service.heads import sparse
from service.heads.description import (
    Golden,
    GoldenSparse,
    HeadDescription,
    Reference,
    TemperatureScaling,
    VectorScaling,
    digest_of,
    parse,
)
from service.heads.engine import Engine, NonFiniteLogits, Provider
from service.heads.graphs import Linear, build_linear, read_linear
from service.heads.storage import StoredVersion
from service.numeric.checks import all_finite
from service.numeric.quality import layout_of
from service.rules import read_decision
from service.types import (
    Calibration,
    Decision,
    Features,
    FloatArray,
    FloatType,
    HeadInfo,
    IndexArray,
    SparseRows,
)

# How far a golden logit may lie from what head.json says, relative to max(1, |logit|): room for another
# order of summation, none for another weight.
GOLDEN_TOLERANCE: dict[FloatType, float] = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}
# The golden rows' zeros are written out for the test: 128 MB of them at most.
MOST_GOLDEN_NUMBERS = 1 << 24


class Head:
    """One loaded version: immutable, safe in several threads at once.

    Parameters
    ----------
    info : HeadInfo
    description : HeadDescription
        Its head.json; an empty one for a bare model.
    engine : Engine
    model : bytes
        The model as it was loaded, from which the weights of a linear head are read when first asked for:
        the file may have been replaced by then. It is let go of once they are.
    """

    def __init__(self, info: HeadInfo, description: HeadDescription, engine: Engine, model: bytes) -> None:
        self.info = info
        self.description = description
        self.input_name = engine.input_name
        self.output_name = engine.output_name
        self._engine = engine
        self._model: bytes | None = model
        self._lock = threading.Lock()
        self._linear: Linear | None = None

    def run(self, features: Features) -> FloatArray:
        """Run the head; sparse rows without their zeros, on the CPU, where it is linear and that is faster.

        A linear float32 head's logits lie within num_features * 2^-24 * sum |features * weights| of the exact
        ones, the bias counted as one more feature that is 1; a float64 head's within the same with 2^-53. The
        bits of a row may depend on how many rows run with it: onnxruntime chooses the order of summation.

        Parameters
        ----------
        features : float array [..., num_features], or SparseRows
            Finite, of `info.dtype`.

        Returns
        -------
        float array [..., num_classes]
            Finite logits of `info.dtype`; no rows give no rows.

        Raises
        ------
        Invalid
            `features_shape`, or `non_finite_logits` where a row's logits overflow.
        """
        if isinstance(features, SparseRows):
            return self._run_sparse(features)
        return self._engine.run(features)

    def cost(self, rows: SparseRows) -> float:
        """Say what running sparse rows costs, in multiplications of a dense product, once `is_linear` was asked."""
        cost = sparse.dense_cost(rows, self.info.num_classes)
        return min(cost, sparse.cost(rows, self.info.num_classes)) if self.is_linear() else cost

    @property
    def is_read(self) -> bool:
        """Whether it is known if the head is linear, and its weights where it is: reading them takes a while."""
        return self._model is None

    def is_linear(self) -> bool:
        return self.read() is not None

    def contributions(self, features: Features, classes: IndexArray, k: int) -> tuple[IndexArray, FloatArray]:
        """Find the features that spoke loudest for each row's class: the largest features * weights.

        Parameters
        ----------
        features : float array [..., num_features], or SparseRows
            As for `run`.
        classes : int64 array [...]
            The class to explain in each row.
        k : int
            How many to give, at most num_features.

        Returns
        -------
        tuple of int64 array [..., k] and float array [..., k]
            Indices of features, largest value first, ties to the lower index; and features[j] * W[j, class]
            in `info.dtype`.

        Raises
        ------
        Invalid
            `not_linear` where the graph is not one linear layer.
        """
        linear = self.read()
        if linear is None:
            raise Invalid(
                "not_linear",
                f"expected a linear head, but {self.info.model} version {self.info.version} is not one "
                "linear layer: it has no contributions",
                path="outputs",
            )
        if isinstance(features, SparseRows):
            return sparse.contributions(linear.weights, features, classes, k)
        with np.errstate(over="ignore"):
            values = features * linear.weights.T[classes]
        order = np.argsort(-values, axis=-1, kind="stable")[..., :k]
        return order, np.take_along_axis(values, order, axis=-1)

    def _run_sparse(self, rows: SparseRows) -> FloatArray:
        num_classes = self.info.num_classes
        if sparse.cost(rows, num_classes) < sparse.dense_cost(rows, num_classes):
            linear = self.read()
            if linear is not None:
                return _finite(sparse.score(linear, rows))
        logits = np.empty((len(rows), num_classes), self.info.dtype)
        for start, block in sparse.dense_blocks(rows):
            try:
                logits[start : start + len(block)] = self._engine.run(block)
            except NonFiniteLogits as error:
                raise NonFiniteLogits(start + error.row, (len(rows),)) from None
        return logits

    def read(self) -> Linear | None:
        """Read the weights, once; None where the head is not linear."""
        if self._model is None:
            return self._linear
        with self._lock:
            if self._model is not None:
                self._linear = read_linear(
                    self._model, input_name=self.input_name, output_name=self.output_name
                )
                self._model = None
            return self._linear


class Files(NamedTuple):
    """What lies in the folder of a version, read at one time; the digest is over both files."""

    model: bytes
    description: HeadDescription
    digest: str


def read_files(stored: StoredVersion) -> Files:
    """Read the files of a version; `ModelError` where they cannot be, or do not belong together."""
    model = _read(stored.model_path)
    text = b"{}" if stored.description_path is None else _read(stored.description_path)
    description = parse(text)
    digest = digest_of(model, text)
    if description.digest not in (None, digest):
        raise ModelError(
            f"model.onnx and head.json do not belong together: their digest is {digest[:12]}…, but "
            f"head.json says {description.digest[:12]}…"
        )
    return Files(model, description, digest)


def join(heads: Sequence[Head], *, threads: int) -> Head:
    """Put linear heads of one dtype, provider and number of features side by side: one product scores them all.

    The classes of the first come first. Blocks, as `open_head` does.
    """
    linears = [linear for head in heads if (linear := head.read()) is not None]
    weights = np.concatenate([linear.weights for linear in linears], axis=1)
    model = build_linear(Linear(weights, np.concatenate([linear.bias for linear in linears])))
    first = heads[0].info
    engine = Engine(model, provider=cast("Provider", first.provider), threads=threads)
    info = replace(first, model="", version="", digest="", class_names=None, num_classes=engine.num_classes)
    return Head(info, HeadDescription(), engine, model)


def open_head(stored: StoredVersion, files: Files, *, provider: Provider, threads: int) -> Head:
    """Open, warm up and self-test a version; blocks.

    `ModelError` says why it cannot be served, `StartError` what is missing to run any.
    """
    description = files.description
    engine = Engine(
        files.model,
        provider=provider,
        threads=threads,
        input_name=description.input,
        output_name=description.output,
    )
    _check(description, engine)
    if description.golden is not None:
        _self_test(description.golden, engine)
    info = HeadInfo(
        model=stored.model,
        version=str(stored.version),
        num_features=engine.num_features,
        num_classes=engine.num_classes,
        dtype=engine.dtype,
        class_names=description.class_names,
        digest=files.digest,
        provider=engine.provider,
        decision=_decision_of(description, engine.num_classes),
        calibration=_calibration(description.calibration),
        reference=_reference(description.reference, engine.num_classes),
    )
    return Head(info, description, engine, files.model)


def _finite(logits: FloatArray) -> FloatArray:
    if not all_finite(logits):
        row = int(np.argmin(np.isfinite(logits).all(axis=1)))
        raise NonFiniteLogits(row, logits.shape[:-1])
    return logits


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error


def _check(description: HeadDescription, engine: Engine) -> None:
    """What head.json says, against what the engine found."""
    names = description.class_names
    if names is not None and len(names) != engine.num_classes:
        raise ModelError(
            f"head.json has {len(names)} class_names, but the model has {engine.num_classes} classes"
        )
    _check_examples(description, engine)
    by = description.calibration
    if isinstance(by, VectorScaling):
        for name, numbers in (("scale", by.scale), ("bias", by.bias)):
            if len(numbers) != engine.num_classes:
                raise ModelError(
                    f"head.json: calibration.{name} has {len(numbers)} numbers, but the model has "
                    f"{engine.num_classes} classes"
                )
    if description.dtype not in (None, str(engine.dtype)):
        raise ModelError(
            f"head.json says dtype {description.dtype}, but the model computes in {engine.dtype}"
        )


def _check_examples(description: HeadDescription, engine: Engine) -> None:
    examples, image, width = description.examples, description.image, engine.num_features
    if examples is not None:
        if len(examples.features[0]) != width:
            raise ModelError(
                f"head.json: examples.features has {len(examples.features[0])} features, the model {width}"
            )
        largest = max(examples.labels or (0,))
        if largest >= engine.num_classes:
            raise ModelError(
                f"head.json: examples.labels has the class {largest}, but the model has {engine.num_classes} classes"
            )
    if image is not None and image.height * image.width != width:
        raise ModelError(
            f"head.json: image has {image.height} x {image.width} pixels, but the model has {width} features"
        )


def _decision_of(description: HeadDescription, num_classes: int) -> Decision | None:
    if description.decision is None:
        return None
    try:
        return read_decision(description.decision, num_classes, description.class_names)
    except Invalid as error:
        raise ModelError(f"head.json: {error.detail}") from error


def _calibration(described: TemperatureScaling | VectorScaling | None) -> Calibration | None:
    if isinstance(described, VectorScaling):
        return Calibration(scale=np.array(described.scale), bias=np.array(described.bias))
    return None if described is None else Calibration(described.temperature)


def _reference(described: Reference | None, num_classes: int) -> NDArray[np.float64] | None:
    if described is None:
        return None
    layout = layout_of(num_classes)
    parts = described.model_dump(exclude={"rows"})
    expected = layout.length("predicted")
    if len(described.predicted) != expected:
        raise ModelError(
            f"head.json: reference.predicted has {len(described.predicted)} numbers, expected {expected}"
        )
    return layout.filled({"seen": described.rows, **parts})


def _self_test(golden: Golden, engine: Engine) -> None:
    """Run the golden rows; a version whose numbers differ is not served."""
    features = _golden_features(golden, engine.num_features)
    expected = _rows(golden.logits, "logits", engine.num_classes)
    if len(features) != len(expected):
        raise ModelError(f"head.json: golden has {len(features)} rows of features, {len(expected)} of logits")
    with np.errstate(over="ignore"):  # what overflows here is refused by the engine
        rounded = cast("FloatArray", features.astype(engine.dtype))
    try:
        logits = engine.run(rounded).astype(np.float64)
    except Exception as error:  # Invalid, or one of onnxruntime's own
        raise ModelError(f"self-test failed: the golden rows do not run: {error}") from error
    allowed = GOLDEN_TOLERANCE[engine.dtype] * np.maximum(1, np.abs(expected))
    excess = np.abs(logits - expected) / allowed
    wrong = (excess > 1).any(axis=1) | (logits.argmax(axis=1) != expected.argmax(axis=1))
    if wrong.any():
        row = int(np.argmax(wrong))
        column = int(np.argmax(excess[row]))
        raise ModelError(
            f"self-test failed: golden row {row} should give {expected[row, column]:.9g} at logits[{column}], "
            f"but gives {logits[row, column]:.9g}"
        )


def _golden_features(golden: Golden, width: int) -> NDArray[np.float64]:
    rows = golden.features
    if not isinstance(rows, GoldenSparse):
        return _rows(rows, "features", width)
    if rows.num_features != width:
        raise ModelError(f"head.json: golden.features has {rows.num_features} features, the model {width}")
    if (len(rows.indptr) - 1) * width > MOST_GOLDEN_NUMBERS:
        raise ModelError(
            f"head.json: golden.features has more than {MOST_GOLDEN_NUMBERS} numbers with its zeros"
        )
    indptr, indices = np.array(rows.indptr, np.int64), np.array(rows.indices, np.int64)
    return SparseRows(indptr, indices, np.array(rows.data), width).to_dense().astype(np.float64)


def _rows(rows: tuple[tuple[float, ...], ...], name: str, width: int) -> NDArray[np.float64]:
    for index, row in enumerate(rows):
        if len(row) != width:
            raise ModelError(f"head.json: golden.{name}[{index}] has {len(row)} numbers, the model {width}")
    return np.asarray(rows, dtype=np.float64)
