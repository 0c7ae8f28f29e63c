"""Whether heads keep the numeric contract where they run: checked before anything is timed.

The contract's vectors are answered by the service's own way from features to probabilities and losses, through
heads that hand their features on as logits: every number passes the provider's product and copies, and none may
change by a bit. How far a product of random weights lies from the exact one is held to the bound that
`Head.run` states. Nothing here knows which provider it is, or of time.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from service.errors import LogitserveError
from service.heads.engine import Engine, Provider
from service.heads.graphs import Linear, build_linear
from service.heads.repository import Repository
from service.scorer import Scorer
from service.types import FloatArray, HeadInfo, ScoreRequest
from service.wire.fields import assemble
from service.wire.limits import Limits

# isort: split
import heads
import numpy as np
from numpy.typing import NDArray

VECTORS = Path(__file__).parent.parent / "tests" / "golden" / "vectors.jsonl"

Vector: TypeAlias = dict[str, Any]
HeadOf: TypeAlias = Callable[[str | None, str | None], HeadInfo]

UNLIMITED = Limits(sys.maxsize, sys.maxsize, sys.maxsize, sys.maxsize)
# What the scorer answers from the batch itself; for anything else it fetches logits and finishes them.
PLAIN = ("probabilities", "classes")
# Exact products are taken in the next wider type, which for float64 is a slow one.
BOUND_ROWS: dict[str, tuple[int, ...]] = {"float32": (1, 32, 256), "float64": (1, 8)}
UNITS = {"float32": 2.0**-24, "float64": 2.0**-53}
THREADS, RUNS_OF_A_THREAD = 4, 16


class Check(NamedTuple):
    """What was checked in how many cases; `largest` is the worst error over what is allowed, at most 1."""

    what: str
    cases: int
    largest: float
    failed: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failed


def check(provider: Provider, threads: int) -> list[Check]:
    """Check everything; `threads` are those of one run on the CPU."""
    bounds = [check_bound(provider, dtype, threads) for dtype in BOUND_ROWS]
    return [check_vectors(provider), *bounds, check_threads(provider, threads)]


def judge(what: str, errors: Iterable[tuple[str, float]]) -> Check:
    """Make a check of names and errors, each over what is allowed; NaN is a failure."""
    found = list(errors)
    failed = tuple(name for name, error in found if not error <= 1)
    return Check(what, len(found), float(np.max([error for _, error in found], initial=0)), failed)


# Vectors


def read_vectors() -> list[Vector]:
    """Read the vectors that a head computes something for.

    These are neither refusals nor masked classes, since a head's logits are finite, nor batches of no rows,
    for which nothing runs.
    """
    every: list[Vector] = [json.loads(line) for line in VECTORS.read_text(encoding="utf-8").splitlines()]
    good = [one for one in every if "error" not in one["expected"]]
    return [one for one in good if logits_of(one).size and np.isfinite(logits_of(one)).all()]


def logits_of(vector: Vector) -> NDArray[np.float64]:
    return np.array(vector["logits"], np.float64)


def axis_of(vector: Vector) -> int:
    axis: int = vector["options"].get("axis", -1)
    return axis


def identity_of(vector: Vector) -> str:
    """Name the head that hands the vector's logits on."""
    return f"identity-{logits_of(vector).shape[axis_of(vector)]}-{vector['dtype']}"


def write_identities(folder: Path, vectors: list[Vector]) -> None:
    for name in {identity_of(vector) for vector in vectors}:
        _, num_classes, dtype = name.split("-")
        weights = np.eye(int(num_classes), dtype=dtype)
        version = folder / name / "1"
        version.mkdir(parents=True)
        (version / "model.onnx").write_bytes(build_linear(Linear(weights, np.zeros_like(weights[0]))))


def check_vectors(provider: Provider) -> Check:
    vectors = read_vectors()
    with tempfile.TemporaryDirectory() as folder:
        write_identities(Path(folder), vectors)
        repository = Repository(Path(folder), provider=provider)
        repository.load()
    errors = asyncio.run(_answer_all(repository, vectors))
    return judge("the contract's vectors, through heads that hand logits on", errors)


async def _answer_all(repository: Repository, vectors: list[Vector]) -> list[tuple[str, float]]:
    scorer = Scorer(repository)
    try:
        return [(vector["name"], await error_of(scorer, vector)) for vector in vectors]
    finally:
        scorer.close()


async def error_of(scorer: Scorer, vector: Vector) -> float:
    """The largest error of an answer over what the vector allows; infinite where it is refused."""
    answered: dict[str, Any] = {}
    try:
        for outputs in (PLAIN, outputs_of(vector)):
            result = await scorer.score(request_of(vector, outputs, scorer.head_info))
            answered |= result.outputs
    except LogitserveError:
        return float("inf")
    return max(errors_of(vector, answered))


def outputs_of(vector: Vector) -> tuple[str, ...]:
    """The outputs beside the plain ones of which the vector knows the values."""
    expected, names = vector["expected"], []
    if "log_probabilities" in expected:
        names.append("log_probabilities")
    if "top_k" in expected:
        names += ["top_classes", "top_probabilities"]
    if vector["op"] == "cross_entropy":
        names += ["losses", "count"]
        if vector["options"].get("reduction") != "none":
            names.append("loss")
    return tuple(names)


def request_of(vector: Vector, outputs: tuple[str, ...], head_of: HeadOf) -> ScoreRequest:
    """Ask a head for the vector: its logits as features, classes last as a head has them."""
    logits = logits_of(vector)
    fields = {name: value for name, value in vector["options"].items() if name != "axis"}
    fields |= {
        "model": identity_of(vector),
        "features": np.moveaxis(logits, axis_of(vector), -1),
        "outputs": list(outputs),
    }
    if "labels" in vector:
        labels = np.array(vector["labels"])
        is_dense = labels.ndim == logits.ndim
        fields["labels"] = np.moveaxis(labels, axis_of(vector), -1) if is_dense else labels
    return assemble("predict", fields, limits=UNLIMITED, head_of=head_of)


def errors_of(vector: Vector, answered: Mapping[str, Any]) -> Iterator[float]:
    """Each output's error over what the vector allows."""
    expected, tolerance, dtype = vector["expected"], vector["tolerance"], vector["dtype"]
    probabilities = np.moveaxis(answered["probabilities"], -1, axis_of(vector))
    yield excess(probabilities, expected["probabilities"], tolerance, dtype)
    yield mismatch(answered["classes"], expected["classes"])
    if "log_probabilities" in answered:
        logarithms = np.moveaxis(answered["log_probabilities"], -1, axis_of(vector))
        yield excess(logarithms, expected["log_probabilities"], tolerance, dtype)
    if "top_classes" in answered:
        yield mismatch(answered["top_classes"], expected["top_k"]["indices"])
        yield excess(answered["top_probabilities"], expected["top_k"]["probabilities"], tolerance, dtype)
    if "losses" in answered:
        yield excess(answered["losses"], expected["loss"], tolerance, dtype)
        yield mismatch(answered["count"], expected["count"])
    if "loss" in answered:
        yield excess_of_reduced(answered["loss"], expected["reduced"], tolerance)


def excess(found: Any, expected: Any, tolerance: Mapping[str, float], dtype: str) -> float:
    """The largest error over the smaller of tolerance and ulp bound; infinite for another shape or type."""
    exact = np.array(expected, np.float64)
    if np.shape(found) != exact.shape or np.asarray(found).dtype != dtype:
        return float("inf")
    ulp = np.spacing(np.abs(exact).astype(dtype)).astype(np.float64)
    allowed = np.minimum(tolerance["atol"] + tolerance["rtol"] * np.abs(exact), tolerance["max_ulp"] * ulp)
    return float(np.max(np.abs(np.asarray(found, np.float64) - exact) / allowed))


def excess_of_reduced(found: Any, expected: float | None, tolerance: Mapping[str, float]) -> float:
    if found is None or expected is None:
        return 0.0 if found is expected else float("inf")
    return abs(float(found) - expected) / (tolerance["atol"] + tolerance["rtol_reduced"] * abs(expected))


def mismatch(found: Any, expected: Any) -> float:
    """Nothing where integers are equal, whatever their nesting, and infinity where not."""
    return 0.0 if np.array_equal(np.ravel(found), np.ravel(np.array(expected, np.int64))) else float("inf")


# The bound of a product


def bound_excess(logits: FloatArray, linear: Linear, features: FloatArray) -> float:
    """The largest distance of logits from the exact ones over the bound that `Head.run` states."""
    wide = np.float64 if features.dtype == np.float32 else np.longdouble
    exact = features.astype(wide) @ linear.weights.astype(wide) + linear.bias
    magnitudes = np.abs(features).astype(wide) @ np.abs(linear.weights).astype(wide) + np.abs(linear.bias)
    terms = features.shape[-1] + 1  # the bias is one more
    return float(np.max(np.abs(logits - exact) / (terms * UNITS[str(features.dtype)] * magnitudes)))


def features_for(name: str, rows: int, dtype: str, seed: int = 0) -> FloatArray:
    num_features = heads.SHAPES[name][0]
    rng = np.random.default_rng([rows, num_features, seed])
    features: FloatArray = rng.standard_normal((rows, num_features)).astype(dtype)
    return features


def linear_in(name: str, dtype: str) -> Linear:
    weights, bias = heads.linear(name)
    return Linear(weights.astype(dtype), bias.astype(dtype))


def check_bound(provider: Provider, dtype: str, threads: int) -> Check:
    """Hold each head at several numbers of rows to its bound: TF32 would exceed it."""

    def errors() -> Iterator[tuple[str, float]]:
        for name in heads.SHAPES:
            linear = linear_in(name, dtype)
            engine = Engine(build_linear(linear), provider=provider, threads=threads)
            for rows in BOUND_ROWS[dtype]:
                features = features_for(name, rows, dtype)
                yield f"{name}_{rows}", bound_excess(engine.run(features), linear, features)

    return judge(f"{dtype} logits within the bound of Head.run", errors())


def check_threads(provider: Provider, threads: int) -> Check:
    """Hold runs of several threads at once to the same bound: one that took another's rows would be far off."""
    linear = heads.linear("b")
    engine = Engine(build_linear(linear), provider=provider, threads=threads)

    def work(seed: int) -> list[tuple[str, float]]:
        batches = [features_for("b", 1 + (7 * n) % 64, "float32", seed) for n in range(RUNS_OF_A_THREAD)]
        logits = [engine.run(features) for features in batches]
        return [
            (f"thread {seed}, run {n}", bound_excess(logits[n], linear, features))
            for n, features in enumerate(batches)
        ]

    with ThreadPoolExecutor(THREADS) as pool:
        errors = [error for found in pool.map(work, range(THREADS)) for error in found]
    return judge(f"the same in {THREADS} threads at once", errors)
