"""Sparse rows by a linear head: the same function as of dense ones, within the bound that is stated."""

import mpmath
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from service.heads import sparse
from service.heads.graphs import Linear
from service.types import FloatArray, SparseRows


def rows_of(dense: FloatArray) -> SparseRows:
    found = scipy.sparse.csr_array(dense)
    return SparseRows(
        found.indptr.astype(np.int64), found.indices.astype(np.int64), found.data, dense.shape[1]
    )


def random_rows(seed: int, rows: int, features: int, density: float, dtype: type = np.float32) -> SparseRows:
    random = np.random.default_rng(seed)
    dense = random.normal(size=(rows, features)) * (random.random((rows, features)) < density)
    return rows_of(dense.astype(dtype))


def random_linear(seed: int, features: int, classes: int, dtype: type = np.float32) -> Linear:
    random = np.random.default_rng(seed)
    weights, bias = random.normal(size=(features, classes)), random.normal(size=classes)
    return Linear(weights.astype(dtype), bias.astype(dtype))


SHAPES = st.tuples(st.integers(0, 6), st.integers(1, 40), st.integers(1, 9))
DENSITIES = st.sampled_from([0.0, 0.1, 0.5, 1.0])
SEEDS = st.integers(0, 2**32 - 1)


@given(shape=SHAPES, density=DENSITIES, seed=SEEDS, dtype=st.sampled_from([np.float32, np.float64]))
def test_logits_lie_within_the_bound_of_the_exact_ones(
    shape: tuple[int, int, int], density: float, seed: int, dtype: type
) -> None:
    rows, features, classes = shape
    asked, linear = (
        random_rows(seed, rows, features, density, dtype),
        random_linear(seed + 1, features, classes, dtype),
    )
    logits = sparse.score(linear, asked)
    assert logits.shape == (rows, classes)
    assert logits.dtype == dtype
    unit = 2.0**-24 if dtype == np.float32 else 2.0**-53
    for row, x in enumerate(asked.to_dense()):
        entries = np.count_nonzero(x)
        for k in range(classes):
            products = [mpmath.mpf(float(a)) * float(w) for a, w in zip(x, linear.weights[:, k], strict=True)]
            products.append(mpmath.mpf(float(linear.bias[k])))
            exact, size = mpmath.fsum(products), mpmath.fsum(map(abs, products))
            assert abs(float(logits[row, k]) - exact) <= (entries + 1) * unit * size


def test_many_entries_in_several_blocks_keep_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, linear = random_rows(0, 3, 5000, 0.4), random_linear(1, 5000, 7)
    whole = sparse.score(linear, asked)
    monkeypatch.setattr(sparse, "BLOCK_NUMBERS", 700)  # a hundred entries at a time
    parts = sparse.score(linear, asked)
    x, weights = asked.to_dense().astype(np.float64), linear.weights.astype(np.float64)
    allowed = 2000 * 2.0**-24 * (np.abs(x) @ np.abs(weights) + np.abs(linear.bias))
    for logits in (whole, parts):
        assert (np.abs(logits - (x @ weights + linear.bias)) <= allowed).all()


def test_a_rows_bits_do_not_depend_on_who_is_beside_it() -> None:
    asked, linear = random_rows(2, 20, 3000, 0.05), random_linear(3, 3000, 11)
    together = sparse.score(linear, asked)
    for row in range(20):
        np.testing.assert_array_equal(sparse.score(linear, asked[row : row + 1])[0], together[row])


def test_rows_without_entries_are_the_bias() -> None:
    linear = random_linear(0, 5, 3)
    logits = sparse.score(linear, rows_of(np.zeros((2, 5), np.float32)))
    np.testing.assert_array_equal(logits, [linear.bias, linear.bias])


def test_what_overflows_is_infinite_without_a_word() -> None:
    linear = Linear(np.full((3, 1), 3e38, np.float32), np.zeros(1, np.float32))
    logits = sparse.score(linear, rows_of(np.array([[1, 1, 0], [9, -9, 0]], np.float32)))
    assert not np.isfinite(logits).any()


@given(features=st.integers(1, 30), rows=st.integers(0, 9), room=st.integers(1, 100))
def test_dense_blocks_are_all_rows_in_order_within_the_memory(features: int, rows: int, room: int) -> None:
    asked = random_rows(rows, rows, features, 0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "BLOCK_NUMBERS", room)
        blocks = list(sparse.dense_blocks(asked))
    assert all(block.size <= max(room, features) for _, block in blocks)
    starts = np.cumsum([0, *(len(block) for _, block in blocks)])
    assert [start for start, _ in blocks] == starts[:-1].tolist()
    together = np.concatenate([np.zeros((0, features), np.float32), *(block for _, block in blocks)])
    np.testing.assert_array_equal(together, asked.to_dense())


def test_a_sparse_text_is_cheaper_without_its_zeros_and_a_small_or_full_batch_is_not() -> None:
    def cheaper(rows: int, entries: int, features: int, classes: int) -> bool:
        asked = SparseRows(
            np.arange(rows + 1) * entries,
            np.zeros(rows * entries, np.int64),
            np.zeros(rows * entries, np.float32),
            features,
        )
        return sparse.cost(asked, classes) < sparse.dense_cost(asked, classes)

    assert cheaper(1, 100, 100_053, 142)
    assert cheaper(64, 100, 100_053, 142)
    assert cheaper(1, 16, 64, 10)
    assert not cheaper(64, 16, 64, 10)
    assert not cheaper(64, 20_000, 100_053, 142)


@given(shape=SHAPES, density=DENSITIES, seed=SEEDS, k=st.integers(1, 45))
def test_contributions_are_those_of_the_dense_rows(
    shape: tuple[int, int, int], density: float, seed: int, k: int
) -> None:
    rows, features, classes = shape
    asked, linear = random_rows(seed, rows, features, density), random_linear(seed + 1, features, classes)
    chosen = np.random.default_rng(seed).integers(0, classes, rows)
    k = min(k, features)
    found, values = sparse.contributions(linear.weights, asked, chosen, k)
    products = asked.to_dense() * linear.weights.T[chosen]
    order = np.argsort(-products, axis=-1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found, order)
    np.testing.assert_array_equal(values, np.take_along_axis(products, order, -1))
    assert values.dtype == np.float32
    assert found.dtype == np.int64
