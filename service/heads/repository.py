"""Versions of heads as immutable handles, each ready only once it has passed its self-test.

Knows where versions lie, how one is opened and what its head.json promises; knows no request, no label and
no HTTP.
"""

import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid, ModelError, NotFound, NotReady
from service.heads.description import Golden, HeadDescription, digest_of, parse
from service.heads.engine import Engine, Provider
from service.heads.graphs import Linear, read_linear
from service.heads.storage import StoredVersion, list_versions
from service.types import FloatArray, FloatType, HeadInfo, IndexArray

# How far a golden logit may lie from what head.json says, relative to max(1, |logit|): room for another
# order of summation, none for another weight.
GOLDEN_TOLERANCE: dict[FloatType, float] = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}


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
        the file may have been replaced by then.
    """

    def __init__(self, info: HeadInfo, description: HeadDescription, engine: Engine, model: bytes) -> None:
        self.info = info
        self.description = description
        self.input_name = engine.input_name
        self.output_name = engine.output_name
        self._engine = engine
        self._model = model
        self._lock = threading.Lock()
        self._linear: Linear | None = None

    def run(self, features: FloatArray) -> FloatArray:
        """Run the head.

        A linear float32 head's logits lie within num_features * 2^-24 * sum |features * weights| of the exact
        ones, the bias counted as one more feature that is 1; a float64 head's within the same with 2^-53. The
        bits of a row may depend on how many rows run with it: onnxruntime chooses the order of summation.

        Parameters
        ----------
        features : float array [..., num_features]
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
        return self._engine.run(features)

    def contributions(
        self, features: FloatArray, classes: IndexArray, k: int
    ) -> tuple[IndexArray, FloatArray]:
        """Find the features that spoke loudest for each row's class: the largest features * weights.

        Parameters
        ----------
        features : float array [..., num_features]
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
        weights = self._read_weights()
        with np.errstate(over="ignore"):
            values = features * weights.T[classes]
        order = np.argsort(-values, axis=-1, kind="stable")[..., :k]
        return order, np.take_along_axis(values, order, axis=-1)

    def _read_weights(self) -> FloatArray:
        with self._lock:
            if self._linear is None:
                self._linear = read_linear(
                    self._model, input_name=self.input_name, output_name=self.output_name
                )
            if self._linear is None:
                raise Invalid(
                    "not_linear",
                    f"expected a linear head, but {self.info.model} version {self.info.version} is not one "
                    "linear layer: it has no contributions",
                    path="outputs",
                )
            return self._linear.weights


NO_VERSIONS: dict[str, Head] = {}


class Repository:
    """All versions at one location.

    Parameters
    ----------
    location : Path
        A folder of heads, or one .onnx file; see `storage`.
    provider : "auto", "cpu" or "cuda"
    threads : int
        How many threads one run may use.
    """

    def __init__(self, location: Path, *, provider: Provider = "auto", threads: int = 1) -> None:
        self._location = location
        self._provider = provider
        self._threads = threads
        # model -> version -> handle, versions ascending; replaced whole, never changed.
        self._heads: dict[str, dict[str, Head]] = {}

    def load(self) -> None:
        """Open, warm up and self-test every version; blocks.

        `StartError` where there is nothing to serve or nothing to run it with; `ModelError` naming the
        version that fails and why.
        """
        heads: dict[str, dict[str, Head]] = {}
        for stored in list_versions(self._location):
            try:
                head = self._load(stored)
            except ModelError as error:
                raise ModelError(f"{stored.model} version {stored.version}: {error}") from error
            heads.setdefault(stored.model, {})[head.info.version] = head
        self._heads = heads

    def info(self, model: str | None, version: str | None) -> HeadInfo:
        """Resolve names to the exact version: by default the only model, and its newest version."""
        if not self._heads:
            raise NotReady("not_ready", "no head is loaded yet")
        if model is None:
            if len(self._heads) > 1:
                raise NotFound("unknown_model", f"expected one of {_listed(self._heads)}", path="model")
            model = next(iter(self._heads))
        versions = self._heads.get(model)
        if versions is None:
            raise NotFound(
                "unknown_model", f"expected one of {_listed(self._heads)}, got {_short(model)}", path="model"
            )
        if version is None:
            version = next(reversed(versions))
        if version not in versions:
            raise NotFound(
                "unknown_version",
                f"expected one of {_listed(versions)}, got {_short(version)}",
                path="version",
            )
        return versions[version].info

    def head(self, info: HeadInfo) -> Head:
        """The handle of an exact version; `NotReady` where it has gone."""
        head = self._heads.get(info.model, NO_VERSIONS).get(info.version)
        if head is None or head.info.digest != info.digest:
            raise NotReady("not_ready", f"{info.model} version {info.version} is no longer loaded")
        return head

    def holds(self, head: Head) -> bool:
        """Whether this very handle is the one that serves its version."""
        return self._heads.get(head.info.model, NO_VERSIONS).get(head.info.version) is head

    def describe(self) -> list[dict[str, Any]]:
        """Everything that may be told of the heads, model by model, as JSON values."""
        return [
            {
                "name": model,
                "default_version": next(reversed(versions)),
                "aliases": {},
                "versions": [_describe(head) for head in versions.values()],
            }
            for model, versions in self._heads.items()
        ]

    def close(self) -> None:
        """Let go of every head; runs under way finish."""
        self._heads = {}

    def _load(self, stored: StoredVersion) -> Head:
        model = _read(stored.model_path)
        text = b"{}" if stored.description_path is None else _read(stored.description_path)
        description = parse(text)
        digest = digest_of(model, text)
        if description.digest not in (None, digest):
            raise ModelError(
                f"model.onnx and head.json do not belong together: their digest is {digest[:12]}…, but "
                f"head.json says {description.digest[:12]}…"
            )
        engine = Engine(
            model,
            provider=self._provider,
            threads=self._threads,
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
            digest=digest,
            provider=engine.provider,
        )
        return Head(info, description, engine, model)


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
    if description.dtype not in (None, str(engine.dtype)):
        raise ModelError(
            f"head.json says dtype {description.dtype}, but the model computes in {engine.dtype}"
        )


def _self_test(golden: Golden, engine: Engine) -> None:
    """Run the golden rows; a version whose numbers differ is not served."""
    features = _rows(golden.features, "features", engine.num_features)
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


def _rows(rows: tuple[tuple[float, ...], ...], name: str, width: int) -> NDArray[np.float64]:
    for index, row in enumerate(rows):
        if len(row) != width:
            raise ModelError(f"head.json: golden.{name}[{index}] has {len(row)} numbers, the model {width}")
    return np.asarray(rows, dtype=np.float64)


def _describe(head: Head) -> dict[str, Any]:
    info, description = head.info, head.description
    told = description.model_dump(include={"calibration", "metrics", "source"})
    return {
        "version": info.version,
        "state": "ready",
        "reason": None,
        "inputs": [{"name": head.input_name, "dtype": str(info.dtype), "shape": [-1, info.num_features]}],
        "outputs": [{"name": head.output_name, "dtype": str(info.dtype), "shape": [-1, info.num_classes]}],
        "class_names": None if info.class_names is None else list(info.class_names),
        "digest": info.digest,
        "provider": info.provider,
        **told,
    }


def _listed(names: dict[str, Any]) -> str:
    return ", ".join(map(_short, list(names)[:10])) + (", …" if len(names) > 10 else "")


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else name[:40] + "…")
