"""Makes the heads that ship, byte for byte.

    python models/build.py               writes models/digits/1
    python models/build.py --out DIR     writes DIR/digits/1
    python models/build.py --check       rebuilds as other CPUs would, and compares with what is here

The digits head is multinomial logistic regression on raw pixels. Its bytes are the same on every CPU because
the fit is a strictly convex problem, solved by Newton's method to some 1e-14, and weights are then rounded to
multiples of 2^-12: how a BLAS orders its sums moves a weight a billion times less than half such a step. And
as pixels are integers, every logit is a sum of multiples of 2^-12 below 2^12, exact in float32 in any order.
"""

import argparse
import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from service.evaluation.judging import reference_of
from service.heads.description import digest_of
from service.heads.graphs import Linear, build_linear
from service.heads.writing import to_json

HERE = Path(__file__).parent
FOLDER = Path("digits", "1")
FILES = (FOLDER / "model.onnx", FOLDER / "head.json")

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Every fifth image of each class, in the order of the data set, is held out.
HELD_OUT_EVERY = 5
PIXEL_MAX = 16
# The strength of the ridge: half of it times the squared weights of pixels scaled to [0, 1] and biases is
# added to the summed loss. It makes the minimum unique; 0.1 to 1 score alike on the held-out part.
RIDGE = 0.3
# From zero weights Newton's method converges in 8 steps; more change nothing but the last bits.
NEWTON_STEPS = 12
STEPS_PER_UNIT = 2**12
# How many held-out images of each class stand in head.json, for people to try the head with.
EXAMPLES_PER_CLASS = 4
# Scores are written to this many places: exp differs in its last bit between CPUs.
METRIC_DECIMALS = 6

# Two CPUs that share no BLAS kernel.
OTHER_CPUS = (
    {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "2"},
    {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "1"},
)

Floats = NDArray[np.float64]


class Digits(NamedTuple):
    """Images [rows, 64] of pixels 0 to 16, the digits they show [rows], and which rows are held out."""

    pixels: Floats
    labels: NDArray[np.int64]
    held_out: NDArray[np.bool_]


def read_digits() -> Digits:
    pixels, labels = load_digits(return_X_y=True)
    held_out = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        held_out[np.flatnonzero(labels == label)[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]] = True
    return Digits(pixels, labels, held_out)


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    difference: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return difference


def fit(pixels: Floats, labels: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Fit weights [64, 10] for raw pixels and biases [10], by Newton's method in float64."""
    inputs = np.column_stack([pixels / PIXEL_MAX, np.ones(len(pixels))])
    num_inputs, num_classes = inputs.shape[1], len(CLASS_NAMES)
    targets = np.eye(num_classes)[labels]
    weights = np.zeros((num_classes, num_inputs))
    for _ in range(NEWTON_STEPS):
        probabilities = np.exp(log_softmax(inputs @ weights.T))
        gradient = (probabilities - targets).T @ inputs + RIDGE * weights
        # Of one image the curvature is (diag(p) - p pᵀ) ⊗ x xᵀ.
        spread = (probabilities[:, :, None] * inputs[:, None, :]).reshape(len(inputs), -1)
        hessian = RIDGE * np.eye(weights.size) - spread.T @ spread
        blocks = hessian.reshape(num_classes, num_inputs, num_classes, num_inputs)
        for index in range(num_classes):
            blocks[index, :, index, :] += inputs.T @ (inputs * probabilities[:, index, None])
        weights -= np.linalg.solve(hessian, gradient.ravel()).reshape(weights.shape)
    return weights[:, :-1].T / PIXEL_MAX, weights[:, -1]


def round_to_steps(values: Floats) -> NDArray[np.float32]:
    return (np.round(values * STEPS_PER_UNIT) / STEPS_PER_UNIT).astype(np.float32)


def choose_examples(digits: Digits, logits: Floats) -> list[int]:
    """Choose held-out images [40] of which some are easy, and some are taken for another digit.

    Of each class they are ordered by their margin, the logit of the digit they show less the largest other one, and
    taken evenly from the clearest to the one with the least, which is below 0 where the head is wrong.
    Logits are exact, so no CPU orders them otherwise; equal margins keep the order of the data set.
    """
    own = np.eye(len(CLASS_NAMES), dtype=np.bool_)[digits.labels]
    margins = logits[own] - np.where(own, -np.inf, logits).max(axis=1)
    chosen: list[int] = []
    for label in range(len(CLASS_NAMES)):
        rows = np.flatnonzero(digits.held_out & (digits.labels == label))
        clearest_first = rows[np.argsort(-margins[rows], kind="stable")]
        steps = np.arange(EXAMPLES_PER_CLASS) * (len(rows) - 1) // (EXAMPLES_PER_CLASS - 1)
        chosen += clearest_first[steps].tolist()
    return chosen


def describe(digits: Digits, linear: Linear) -> dict[str, Any]:
    """What head.json says, but for its digest."""
    logits = digits.pixels @ linear.weights.astype(np.float64) + linear.bias
    held_out = np.flatnonzero(digits.held_out)
    hits = logits[held_out].argmax(axis=1) == digits.labels[held_out]
    recognised = held_out[hits]
    losses = -log_softmax(logits[held_out])[np.arange(len(held_out)), digits.labels[held_out]]
    examples = choose_examples(digits, logits)
    golden = [recognised[digits.labels[recognised] == label][0] for label in range(len(CLASS_NAMES))]
    return {
        "class_names": CLASS_NAMES,
        "input": "features",
        "output": "logits",
        "dtype": "float32",
        "calibration": None,
        "decision": None,
        "reference": reference_of(logits[held_out], None),
        "golden": {
            "features": digits.pixels[golden].astype(int).tolist(),
            "logits": logits[golden].tolist(),
        },
        "examples": {
            "features": digits.pixels[examples].astype(int).tolist(),
            "labels": digits.labels[examples].tolist(),
        },
        "image": {"height": 8, "width": 8, "largest": PIXEL_MAX},
        "source": {
            "data": "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak (1998), UCI Machine "
            "Learning Repository, doi:10.24432/C50P49; its test set of 1797 images of 8 x 8 pixels, as it "
            "comes with scikit-learn",
            "licence": "CC BY 4.0 (the data); Apache-2.0 (the head)",
            "method": f"multinomial logistic regression, ridge {RIDGE}, Newton's method in float64; weights "
            "for raw pixels 0 to 16, rounded to multiples of 2^-12",
            "held_out": "every fifth image of each class, in the order of the data set",
        },
        "metrics": {
            "held_out_rows": len(held_out),
            "held_out_accuracy": round(float(hits.mean()), METRIC_DECIMALS),
            "held_out_loss": round(float(losses.mean()), METRIC_DECIMALS),
        },
    }


def build(out: Path) -> None:
    digits = read_digits()
    weights, bias = fit(digits.pixels[~digits.held_out], digits.labels[~digits.held_out])
    linear = Linear(round_to_steps(weights), round_to_steps(bias))
    model = build_linear(linear)
    description = describe(digits, linear)
    description["digest"] = digest_of(model, to_json(description).encode())
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    (out / FILES[0]).write_bytes(model)
    (out / FILES[1]).write_text(to_json(description), encoding="utf-8", newline="\n")


def check(committed: Path) -> bool:
    """Rebuild under other settings of BLAS, each in a process of its own; whether all bytes are the same."""
    same = True
    for settings in OTHER_CPUS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(Path(__file__).resolve()), "--out", folder]
            subprocess.run(command, env={**os.environ, **settings}, check=True)  # noqa: S603 - this very script
            for name in FILES:
                equal = filecmp.cmp(Path(folder, name), committed / name, shallow=False)
                same &= equal
                print(f"{'same' if equal else 'DIFFERS'}  {name}  {settings}")
    return same


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the heads that ship, byte for byte.")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write, default this folder")
    parser.add_argument("--check", action="store_true", help="rebuild and compare, write nothing")
    options = parser.parse_args(arguments)
    if options.check:
        return 0 if check(options.out) else 1
    build(options.out)
    print(f"wrote {options.out / FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
