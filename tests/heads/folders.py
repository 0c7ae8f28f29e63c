"""Heads of two classes in a folder, and a repository over it."""

from pathlib import Path
from typing import Any

import numpy as np

from service.heads.graphs import Linear, build_linear
from service.heads.repository import Repository

WEIGHTS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
BIAS = np.array([0.5, -1], np.float32)
LINEAR = build_linear(Linear(WEIGHTS, BIAS))
GOLDEN = {"features": [[1, 0, 0], [0, 1, -1]], "logits": [[1.5, 1.0], [-1.5, -3.0]]}
DESCRIPTION: dict[str, Any] = {"class_names": ["cat", "dog"], "golden": GOLDEN, "source": {"data": "made up"}}


def write(root: Path, name: str, version: int = 1, model: bytes = LINEAR, text: str | None = None) -> Path:
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    if text is not None:
        (folder / "head.json").write_text(text, encoding="utf-8")
    return folder


def load(location: Path, **options: Any) -> Repository:
    repository = Repository(location, provider="cpu", **options)
    repository.load()
    return repository
