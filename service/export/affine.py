"""Linear maps folded into one another, in the same order of summation on every CPU."""

import numpy as np

from service.export.source import Float64Array
from service.heads.graphs import Linear
from service.types import FloatArray


def product(left: FloatArray, right: FloatArray) -> Float64Array:
    """Multiply [n, k] by [k, m] with numpy's own pairwise sums: a BLAS orders them by the CPU that it runs on."""
    columns = np.ascontiguousarray(right.T, np.float64)
    if not len(left):
        return np.zeros((0, len(columns)))
    return np.stack([(columns * row).sum(axis=1) for row in left])


def fold(matrix: FloatArray, offset: FloatArray, linear: Linear) -> Linear:
    """Let a head take what `x @ matrix + offset` takes: [n, k] and [k], before weights [k, num_classes]."""
    weights = product(matrix, linear.weights)
    return Linear(weights, product(offset[None, :], linear.weights)[0] + linear.bias)


def fold_scaled(scale: FloatArray, offset: FloatArray, linear: Linear) -> Linear:
    """The same for `x * scale + offset`, feature by feature."""
    return Linear(scale[:, None] * linear.weights, product(offset[None, :], linear.weights)[0] + linear.bias)
