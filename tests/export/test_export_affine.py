"""Folding linear maps: the head says of what comes in what it said of what came out."""

import subprocess
import sys

import numpy as np
import pytest

from service.export.affine import fold, fold_scaled, product
from service.heads.graphs import Linear

RANDOM = np.random.default_rng(1)


def test_the_product_is_the_product() -> None:
    left, right = RANDOM.normal(size=(5, 7)), RANDOM.normal(size=(7, 3))
    np.testing.assert_allclose(product(left, right), left @ right, rtol=1e-13)
    assert product(left[:0], right).shape == (0, 3)


def test_a_projection_before_a_head_is_one_head() -> None:
    matrix, offset = RANDOM.normal(size=(6, 4)), RANDOM.normal(size=4)
    head = Linear(RANDOM.normal(size=(4, 3)), RANDOM.normal(size=3))
    rows = RANDOM.normal(size=(10, 6))
    folded = fold(matrix, offset, head)
    expected = (rows @ matrix + offset) @ head.weights + head.bias
    np.testing.assert_allclose(rows @ folded.weights + folded.bias, expected, rtol=1e-12, atol=1e-12)


def test_a_scale_before_a_head_is_one_head() -> None:
    scale, offset = RANDOM.normal(size=4), RANDOM.normal(size=4)
    head = Linear(RANDOM.normal(size=(4, 3)), RANDOM.normal(size=3))
    rows = RANDOM.normal(size=(10, 4))
    folded = fold_scaled(scale, offset, head)
    expected = (rows * scale + offset) @ head.weights + head.bias
    np.testing.assert_allclose(rows @ folded.weights + folded.bias, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cpu", ["Haswell", "Prescott"])
def test_the_product_has_the_same_bits_whatever_the_blas(cpu: str) -> None:
    code = (
        "import numpy as np; from service.export.affine import product; r = np.random.default_rng(0); "
        "print(product(r.normal(size=(9, 301)), r.normal(size=(301, 5))).tobytes().hex())"
    )
    random = np.random.default_rng(0)
    here = product(random.normal(size=(9, 301)), random.normal(size=(301, 5)))
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"OPENBLAS_CORETYPE": cpu, "PYTHONPATH": ":".join(sys.path)},
    )
    assert there.stdout.strip() == here.tobytes().hex()
