"""Sparse rows by a linear head: only the weights of what is there are looked at.

Knows arrays and weights; knows no graph, no session and no version. Whether this is the faster way is known here
too; the other one, to write the zeros out, is the caller's.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from service.heads.graphs import Linear
from service.types import FloatArray, IndexArray, SparseRows

# Measured on one core, in multiplications of a large dense product, 0.03 ns each. Here each waits for its weight to
# come from memory, and a row takes some calls of numpy's (3 µs); there zeros are written first, and a run of the
# engine takes 20 µs. So one row of a text is always faster here, and a batch of them up to a density of some 5 %.
COST_OF_PRODUCT = 16
COST_OF_ROW = 110_000
COST_OF_ZERO = 8
COST_OF_RUN = 600_000

# So many numbers, 16 MB in float32, are written out or gathered at a time.
BLOCK_NUMBERS = 1 << 22


def cost(rows: SparseRows, num_classes: int) -> float:
    """Say what scoring only what is there costs, in multiplications of a dense product."""
    return float(rows.size) * num_classes * COST_OF_PRODUCT + len(rows) * COST_OF_ROW


def dense_cost(rows: SparseRows, num_classes: int) -> float:
    """Say what writing the zeros out and multiplying by them costs, in the same unit."""
    return float(len(rows)) * rows.num_features * (num_classes + COST_OF_ZERO) + COST_OF_RUN


def score(linear: Linear, rows: SparseRows) -> FloatArray:
    """Compute the logits of sparse rows.

    A row's bits depend on that row alone: its products are added one after the other, in the order of the
    features and by no library that shares the work out between threads.

    Parameters
    ----------
    linear : Linear
        Of the type of the rows.
    rows : SparseRows

    Returns
    -------
    float array [rows, num_classes]
        In float32 within (entries of the row + 1) * 2^-24 * sum |features * weights| of the exact ones, the bias
        counted as one more entry; infinite or NaN where they overflow.
    """
    weights, num_classes = linear.weights, linear.weights.shape[1]
    logits = np.zeros((len(rows), num_classes), weights.dtype)
    bounds = rows.indptr.tolist()
    step = max(1, BLOCK_NUMBERS // num_classes)
    with np.errstate(over="ignore", invalid="ignore"):  # whoever asks looks for it
        for row, (start, stop) in enumerate(pairwise(bounds)):
            for at in range(start, stop, step):
                part = slice(at, min(at + step, stop))
                gathered = weights.take(rows.indices[part], axis=0)
                logits[row] += np.einsum("i,ij->j", rows.data[part], gathered)
        logits += linear.bias
    return logits


def dense_blocks(rows: SparseRows) -> Iterator[tuple[int, FloatArray]]:
    """Write rows out in blocks that fit into memory, each with the number of its first row."""
    step = max(1, BLOCK_NUMBERS // rows.num_features)
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step].to_dense()


def contributions(
    weights: FloatArray, rows: SparseRows, classes: IndexArray, k: int
) -> tuple[IndexArray, FloatArray]:
    """Find the largest features * weights of each row, as `Head.contributions` does of dense ones.

    A feature that is not there contributes 0, which is more than what speaks against the class: of those only the
    first can be among the best k.
    """
    found = np.empty((len(rows), k), np.int64)
    values = np.empty((len(rows), k), weights.dtype)
    for row, chosen in enumerate(classes.tolist()):
        there = rows.indices[rows.indptr[row] : rows.indptr[row + 1]]
        first = np.arange(min(k + len(there), rows.num_features))
        absent = np.setdiff1d(first, there, assume_unique=True)[:k]
        features = np.concatenate([there, absent])
        numbers = np.zeros(len(features), weights.dtype)
        numbers[: len(there)] = rows.data[rows.indptr[row] : rows.indptr[row + 1]]
        with np.errstate(over="ignore"):
            products = numbers * weights[features, chosen]
        best = np.lexsort((features, -products))[:k]
        found[row], values[row] = features[best], products[best]
    return found, values
