"""A real head that is far surer than it is right: handwritten digits, fitted to few of them with next to no ridge."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from service.heads.graphs import Linear, build_linear
from service.heads.writing import write_version

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
IMAGE = {"height": 8, "width": 8, "largest": 16}
FITTED_ROWS = 400


def write(folder: Path) -> None:
    """Write `folder/models/digits/1`, and `folder/rows.npz` and `folder/test.npz` of other digits."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels, labels = pixels[order], labels[order]
    head = LogisticRegression(C=1e5, max_iter=3000).fit(pixels[:FITTED_ROWS] / 16, labels[:FITTED_ROWS])
    linear = Linear((head.coef_.T / 16).astype(np.float32), head.intercept_.astype(np.float32))
    features = pixels[:3].tolist()
    logits = (pixels[:3].astype(np.float32) @ linear.weights + linear.bias).tolist()
    described = {
        "class_names": NAMES,
        "golden": {"features": features, "logits": logits},
        "examples": {"features": features, "labels": labels[:3].tolist()},
        "image": IMAGE,
    }
    write_version(folder / "models", "digits", build_linear(linear), described)
    np.savez(folder / "rows.npz", features=pixels[FITTED_ROWS:1200], labels=labels[FITTED_ROWS:1200])
    np.savez(folder / "test.npz", features=pixels[1200:], labels=labels[1200:])
